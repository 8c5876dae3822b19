"""Small helpers for every package; they know nothing about Nomad."""
