"""What a snapshot needs of the database that holds its tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from ..tables.table import Column
    from .capture import Capture


class Store(Protocol):
    """A snapshot's tables: decoded from captured pages (`PageStore`), or kept as tables (`TableStore`).

    A *schema* is one view of the tables; ``"main"`` holds every allocation.
    """

    def frame(
        self, name: str, schema: str, columns: tuple[Column, ...] = (), only: pa.Table | None = None
    ) -> pd.DataFrame: ...
    def parts(
        self, name: str, schema: str, columns: tuple[Column, ...], rows: int
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray[Any, Any]]]: ...
    def scan(self, name: str, schema: str, columns: Sequence[str]) -> Iterator[pa.Table | pa.RecordBatch]: ...
    def query(self, query: str, schema: str, *, allow_files: bool = False) -> pd.DataFrame: ...
    def narrow(self, schema: str, conditions: Iterable[tuple[str, Any]]) -> str: ...
    def split(self, schema: str, size: int) -> Iterator[str]: ...
    def issues(self) -> pd.DataFrame: ...
    def stream(self, name: str, schema: str) -> pa.RecordBatchReader: ...
    def save(self, capture: Capture) -> None: ...
    def close(self) -> None: ...
