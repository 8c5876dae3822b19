"""Follow a cluster as it changes, with the terms of client-go: lister, reflector, resync."""
