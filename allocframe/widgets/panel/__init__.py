"""The control panel: choose allocations, confirm an action, and see its results."""
