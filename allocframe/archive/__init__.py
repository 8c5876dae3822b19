"""The archive: months of a cluster's history in Delta Lake tables, and the recorder that writes it."""

from ..errors import MissingExtra

try:
    from .archive import Archive
except ModuleNotFoundError as _error:
    if _error.name != "deltalake":
        raise
    raise MissingExtra("allocframe.archive needs deltalake: pip install 'allocframe[archive]'") from _error

__all__ = ["Archive"]
