"""The archive: months of a cluster's history in Delta Lake tables, and the recorder that writes it."""

from .archive import Archive

__all__ = ["Archive"]
