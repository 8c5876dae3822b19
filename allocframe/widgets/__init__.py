"""Widgets for notebooks: a panel that acts on allocations, and a terminal."""
