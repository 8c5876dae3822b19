"""The archive: months of a cluster's history in Delta Lake tables, and the recorder that writes it."""

from ..errors import MissingExtra

try:
    from .archive import Archive
except ModuleNotFoundError as error:
    if error.name != "deltalake":
        raise
    needed = "allocframe.archive needs deltalake: pip install 'allocframe[archive]'"
    raise MissingExtra(needed) from error

__all__ = ["Archive"]
