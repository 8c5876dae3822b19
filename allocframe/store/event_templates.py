"""Find the events that differ only in their times: each different one is decoded once, and read once.

Nine in ten events of a cluster say the same as another, such as that a task was started. An event has 24
fields, so decoding all of each would take most of the time that a page takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view

SAME_TIME = 10**18
"""The time of every template. Like this one, Nomad's times have 19 digits from 2001 to 2262."""

_DIGITS = 19
_KEY = b'"Time":'
_KEY_BYTES = np.frombuffer(_KEY, dtype=np.uint8)[:, None]
_SAME_DIGITS = np.frombuffer(str(SAME_TIME).encode(), dtype=np.uint8)
_POWERS = 10 ** np.arange(_DIGITS - 1, -1, -1, dtype=np.uint64)
_LAST = np.uint64(2**63 - 1)

_NONE = np.empty(0, dtype=np.int64)

_PART = 2500
"""Events that are looked at together: they fit in the processor's cache."""

_likely_place = np.full(4096, -1, dtype=np.int64)
"""Where events of each length had `_KEY` last. Most of its length have it there, too; each is checked."""


class Templates(NamedTuple):
    """Events without their times.

    Attributes
    ----------
    texts : list
        The JSON of each different event. Its time is `SAME_TIME`, or its own if `has_time` is false.
    code : array
        For each event the place of its template.
    has_time : array
        Which events had a time as Nomad writes it. The template of any other is all of the event.
    times : array
        Those times, in nanoseconds; 0 for the others.
    """

    texts: list[Any]
    code: np.ndarray[Any, Any]
    has_time: np.ndarray[Any, Any]
    times: np.ndarray[Any, Any]


def find_templates(events: Sequence[Any]) -> Templates:
    """Return the templates of events, which are JSON."""
    places: dict[bytes, int] = {}
    code = np.empty(len(events), dtype=np.int32)
    has_time = np.zeros(len(events), dtype=bool)
    times = np.zeros(len(events), dtype=np.int64)
    done = 0
    for start in range(0, len(events), _PART):
        part = slice(start, start + _PART)
        texts, part_code = _cut_times(events[part], has_time[part], times[part])
        code[part] = np.array([places.setdefault(text, len(places)) for text in texts])[part_code]
        done = min(start + _PART, len(events))
        if len(places) > done // 2:
            break  # hardly any are equal: looking for more would cost more than decoding them
    code[done:] = np.arange(len(places), len(places) + len(events) - done)
    return Templates([*places, *events[done:]], code, has_time, times)


def _cut_times(
    events: Sequence[Any],
    has_time: np.ndarray[Any, Any],
    times: np.ndarray[Any, Any],
    uncut: np.ndarray[Any, Any] = _NONE,
) -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """Fill `has_time` and `times`; return the different events without them, and the place of each in these.

    A loop over the events in Python takes three times as long as looking at each byte in C. Those in `uncut`
    stay as they are.
    """
    # After the last event comes what is looked at beyond its end.
    joined = bytearray(b"\n").join([*events, b"\n" * (len(_KEY) + _DIGITS + 2)])
    text = np.frombuffer(joined, dtype=np.uint8)
    lengths = np.fromiter(map(len, events), np.int64, len(events))
    ends = np.cumsum(lengths + 1)
    event, starts, found = _find_times(events, text, ends - lengths - 1, lengths, uncut)
    if len(starts):
        sliding_window_view(text, _DIGITS, writeable=True)[starts] = _SAME_DIGITS
    offsets: Any = np.concatenate([np.zeros(1, np.int64), ends])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(joined)]
    encoded: Any = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(events), buffers
    ).dictionary_encode()
    templates, code = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    # Of two equal keys the last counts, and other objects in an event may have one.
    ambiguous = [place for place, template in enumerate(templates) if template.count(_KEY) > 1]
    if ambiguous and not len(uncut):
        return _cut_times(events, has_time, times, np.flatnonzero(np.isin(code, ambiguous)))
    has_time[event], times[event] = True, found
    return [template[:-1] for template in templates], code


def _find_times(
    events: Sequence[Any],
    text: np.ndarray[Any, Any],
    begins: np.ndarray[Any, Any],
    lengths: np.ndarray[Any, Any],
    uncut: np.ndarray[Any, Any],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return which events have a time of 19 digits, where it starts, and the time.

    A quote inside a text has a backslash before it, so `_KEY` is always a key. Whether it is the event's own
    shows when the template is decoded.
    """
    kind = np.minimum(lengths, len(_likely_place) - 1)
    places = _likely_place[kind]
    windows = sliding_window_view(text, len(_KEY))[begins + np.minimum(places, lengths)]
    is_there = (windows.T == _KEY_BYTES).all(axis=0) & (places >= 0) & (places < lengths)
    for number in np.flatnonzero(~is_there).tolist():
        _likely_place[kind[number]] = places[number] = bytes(events[number]).find(_KEY)
    places[uncut] = -1
    event = np.flatnonzero(places >= 0)
    starts = begins[event] + places[event] + len(_KEY)
    starts += text[starts] == ord(" ")  # as jq and nomad's -json write it
    if not len(starts):
        return event, starts, starts
    windows = sliding_window_view(text, _DIGITS + 1)[starts].T
    digits, follows = np.ascontiguousarray(windows[:-1] - ord("0")), windows[-1]
    times = _POWERS @ digits
    # what is not a digit has become more than 9
    fits = (digits <= 9).all(axis=0) & (digits[0] > 0) & (times <= _LAST)
    fits &= (follows == ord(",")) | (follows == ord("}")) | (follows == ord("\n"))
    return event[fits], starts[fits], times[fits].astype(np.int64)
