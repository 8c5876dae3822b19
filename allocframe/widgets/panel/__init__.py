"""The control panel: choose allocations, confirm, and see what an action did."""
