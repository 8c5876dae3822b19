"""Exec sessions of the simulated cluster."""
