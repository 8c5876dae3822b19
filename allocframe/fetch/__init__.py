"""From a query to a store: list allocations, read them one by one, resume an interrupted walk."""
