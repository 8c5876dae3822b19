"""The archive: everything that was seen of a cluster, kept in Delta Lake tables, and the recorder that fills it."""

from .archive import Archive

__all__ = ["Archive"]
