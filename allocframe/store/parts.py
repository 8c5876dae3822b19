"""Cut a table that streams from the database into parts of whole allocations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .decode import ALLOC_ROW


def cut_at_allocations(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[list[pa.RecordBatch]]:
    """Yield batches of at least `rows` rows together, cut where the next allocation begins.

    The last part may be shorter. There is always one, which may have no rows.
    """
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        numbers = batch.column(ALLOC_ROW).to_numpy()
        begins, start = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1, 0
        # An allocation may go on in the next batch, so a part never ends with a batch.
        while (place := np.searchsorted(begins, start + max(rows - count, 1))) < len(begins):
            end = int(begins[place])
            yield [*pending, batch.slice(start, end - start)]
            pending, count, start = [], 0, end
        pending.append(batch.slice(start))
        count += len(batch) - start
    yield pending


def number_allocations(batches: Iterable[pa.RecordBatch], key: int) -> Iterator[pa.RecordBatch]:
    """Put a running number of the allocation, `ALLOC_ROW`, in the place of the last `key` columns."""
    number, before = -1, None
    for batch in batches:
        if not len(batch):
            continue
        keys = batch.columns[len(batch.columns) - key :]
        begins = np.zeros(len(batch), dtype=np.int64)
        for values in keys:
            texts: Any = values.cast(pa.large_string()).fill_null("")
            begins[1:] |= pc.not_equal(texts[1:], texts[:-1]).to_numpy(zero_copy_only=False)
        first = [values[0].as_py() for values in keys]
        begins[0] = first != before
        numbers = number + np.cumsum(begins)
        number, before = int(numbers[-1]), [values[-1].as_py() for values in keys]
        kept = batch.select(batch.schema.names[: len(batch.columns) - key])
        yield kept.append_column(ALLOC_ROW, pa.array(numbers, pa.int64()))
