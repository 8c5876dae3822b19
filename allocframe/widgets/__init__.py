"""Widgets for notebooks: a control panel for allocations, and a terminal."""
