"""Answers as Nomad sent them, and how they become rows: the only package that decodes JSON."""
