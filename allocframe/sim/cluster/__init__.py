"""The simulated cluster itself: servers, nodes, jobs and allocations."""
