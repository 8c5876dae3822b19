"""Columns of Arrow as arrays of pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .table import Kind, cast_column, missing

_TEXT_DTYPE: Any = pd.StringDtype(storage="pyarrow", na_value=np.nan)
_FROM_ARROW: dict[Kind, Any] = {
    "text": _TEXT_DTYPE,
    "int": pd.Int64Dtype(),
    "uint": pd.UInt64Dtype(),
    "float": pd.Float64Dtype(),
    "bool": pd.BooleanDtype(),
}


_PART = 64 << 10


def pandas_array(values: pa.ChunkedArray[Any], kind: Kind, arrow: pa.DataType) -> Any:
    """Return `values` as an array of the dtype of `kind`, whose Arrow type is `arrow`."""
    if kind == "category":
        return _categorical(values)
    if kind in _FROM_ARROW and values.null_count == len(values):
        return _without_values(_FROM_ARROW[kind], len(values))
    values = cast_column(values, arrow)
    if kind in ("time", "duration"):
        return values.to_pandas().array
    return _FROM_ARROW[kind].__from_arrow__(values)


def _without_values(dtype: Any, count: int) -> Any:
    """Return a column without any value: most columns of events are, and memory for them would add up."""
    if dtype is _TEXT_DTYPE:
        part = missing(pa.large_string(), _PART)
        parts = [part.slice(0, min(_PART, count - start)) for start in range(0, max(count, 1), _PART)]
        return dtype.__from_arrow__(pa.chunked_array(parts, pa.large_string()))
    # of zeros that nobody writes to, the system keeps none
    zeros = np.zeros(count, dtype.numpy_dtype)
    return dtype.construct_array_type()(zeros, np.ones(count, dtype=bool))


def _categorical(values: pa.ChunkedArray[Any]) -> pd.Categorical:
    """Return repeated text as categories in alphabetical order, so that equal data give equal DataFrames."""
    if values.null_count == len(values):
        return pd.Categorical.from_codes(np.full(len(values), -1, np.int8), dtype=_NO_CATEGORIES)
    encoded: Any = pc.dictionary_encode(values).unify_dictionaries()
    chunks = encoded.chunks
    labels: Any = chunks[0].dictionary.cast(pa.large_string())
    parts = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks]
    codes = np.concatenate(parts).astype(np.intp)  # other integers take three times as long to look up
    # A dictionary may have labels of rows that were filtered out.
    used = np.zeros(len(labels) + 1, dtype=bool)
    used[codes] = True
    # Arrow sorts the bytes of UTF-8, whose order is that of the characters.
    order = pc.array_sort_indices(labels).to_numpy().astype(np.int64)
    order = order[used[order]]
    # pandas copies codes that could have fewer bytes
    rank = np.empty(len(labels) + 1, dtype=np.min_scalar_type(-len(order) - 1))
    rank[order] = np.arange(len(order))
    rank[-1] = -1  # the code of NA is -1, which is the last place
    categories = _TEXT_DTYPE.__from_arrow__(labels.take(pa.array(order)))
    dtype = pd.CategoricalDtype(pd.Index(categories, dtype=_TEXT_DTYPE))
    return pd.Categorical.from_codes(rank[codes], dtype=dtype, validate=False)


_NO_CATEGORIES = pd.CategoricalDtype(pd.Index([], dtype=_TEXT_DTYPE))
