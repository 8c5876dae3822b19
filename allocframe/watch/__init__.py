"""Follow a cluster as it changes, in client-go's terms: lister, reflector, resync."""
