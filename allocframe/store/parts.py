"""Cut a table that streams from the database into parts of whole allocations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

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
        # An allocation may continue in the next batch, so a part never ends with a batch.
        while (place := np.searchsorted(begins, start + max(rows - count, 1))) < len(begins):
            end = int(begins[place])
            yield [*pending, batch.slice(start, end - start)]
            pending, count, start = [], 0, end
        pending.append(batch.slice(start))
        count += len(batch) - start
    yield pending
