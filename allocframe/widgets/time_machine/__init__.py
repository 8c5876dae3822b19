"""The time machine: the state of the cluster at any time."""
