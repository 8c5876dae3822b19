"""The terminal: run commands inside an allocation from a notebook."""
