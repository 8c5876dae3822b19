"""From a query to a store: list allocations, read single ones, resume an interrupted fetch."""
