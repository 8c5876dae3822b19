"""Small helpers shared by every package; they know nothing of Nomad."""
