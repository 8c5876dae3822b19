"""The simulated cluster's HTTP API."""
