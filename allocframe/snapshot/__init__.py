"""Snapshots: tables of allocations at one moment, from one cluster or several."""
