"""Decode pages of JSON to tables. A record that does not fit goes to the lenient reader, alone.

msgspec reads a page into structs, which are generated from the one wire schema. It takes no value of another
type, so a page that it accepts needs no further check but for what a type cannot say (times, ranges, the
numbers in details), which the readers of the columns do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..tables import TABLES, wire_schema
from ..tables.rows import TEXT, MisfitError, Rows, encode, repeat
from . import lenient_json
from .event_templates import SAME_TIME, find_templates
from .json_files import is_plain_list

ROW_BITS = 32
"""A row's number is that of its page, shifted by this many bits, plus the record's position in the page."""

ALLOC_ROW = "alloc_row"
"""The column that every stored table has besides its own: the number of its allocation's row."""


def struct_type(kind: wire_schema.WireType, *raw: wire_schema.WireType, with_nulls: bool = False) -> Any:
    """Return the type that values of a kind are decoded to.

    Parameters
    ----------
    kind : WireType
    *raw : WireType
        The kinds inside it that stay JSON.
    with_nulls : bool
        Whether lists may have nulls, as only the lenient reader writes them.
    """
    return _type_of(kind, "Record", raw, with_nulls)


def _type_of(
    kind: wire_schema.WireType, name: str, raw: tuple[wire_schema.WireType, ...], with_nulls: bool
) -> Any:
    if any(kind is stays for stays in raw):
        return msgspec.Raw
    if isinstance(kind, wire_schema.Scalar):
        return _SCALARS[kind]
    if isinstance(kind, wire_schema.ListOf):
        item = _type_of(kind.item, name, raw, with_nulls)
        return list.__class_getitem__(item | None if with_nulls and item is not msgspec.Raw else item)
    if isinstance(kind, wire_schema.MapOf):
        return dict.__class_getitem__((str, _type_of(kind.value, name, raw, with_nulls) | None))
    fields = []
    for inner, inner_kind in kind.fields.items():
        inner_type = _type_of(inner_kind, inner, raw, with_nulls)
        is_raw = inner_type is msgspec.Raw
        fields.append((inner, inner_type if is_raw else inner_type | None, _NULL if is_raw else None))
    # Without references in circles, the structs give the garbage collector no work.
    return msgspec.defstruct(name, fields, gc=False)


_NULL = msgspec.Raw(b"null")
_SCALARS: dict[wire_schema.Scalar, Any] = {
    wire_schema.TEXT: str,
    wire_schema.ANY_TEXT: str,
    wire_schema.TIME: str,
    wire_schema.INT64: int,
    wire_schema.UINT64: int,
    wire_schema.BOOL: bool,
    wire_schema.FLOAT: float,
}
_ALLOCATION: Any = struct_type(wire_schema.ALLOCATION, wire_schema.EVENT)
_PAGE = msgspec.json.Decoder(list.__class_getitem__(_ALLOCATION))
_RECORD = msgspec.json.Decoder(_ALLOCATION)
_EVENT = msgspec.json.Decoder(struct_type(wire_schema.EVENT, wire_schema.DETAILS))
_FITTED = msgspec.json.Decoder(struct_type(wire_schema.ALLOCATION, wire_schema.EVENT, with_nulls=True))
_RAW = msgspec.json.Decoder(msgspec.Raw)
_RAW_PAGE = msgspec.json.Decoder(list[msgspec.Raw])

_ODD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MisfitError)
"""What a record raises that is not JSON, or does not fit the declared types."""


BATCH = 8 << 20
"""Bytes of pages whose columns are built together: building has a fixed cost, and needs memory."""

PART = 32 << 20
"""Bytes of a page that are decoded at a time."""

_FEW = 64
"""If one of at most this many records does not fit, the lenient reader takes them all."""


@dataclass
class Records:
    """The decoded records of one page."""

    page: int
    source: str
    body: bytes | memoryview
    records: list[Any] = field(default_factory=list)
    positions: Any = ()
    fitted: dict[int, Any] = field(default_factory=dict)
    """Records that the lenient reader made fit, by their position in the page."""
    issues: list[lenient_json.Issue] = field(default_factory=list)
    size: int = 0
    _raw: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        self.size = len(self.body)

    @property
    def ids(self) -> list[str]:
        """The allocations' IDs."""
        return [record.ID for record in chain(self.records, self.fitted.values())]

    def add(self, position: int, raw: Any) -> None:
        """Decode one record."""
        try:
            record = _RECORD.decode(raw)
        except _ODD:
            self.fit(position, raw)
            return
        self.records.append(record)
        self.positions.append(position)

    def fit(self, position: int, raw: Any = None) -> None:
        """Let the lenient reader fit one record, and note what did not."""
        if raw is None:
            if self._raw is None:
                self._raw = list(split_records(self.body, self.source))
            raw = self._raw[position]
        fitted, issues = lenient_json.fit_record(bytes(raw), position, self.source)
        self.issues += issues
        if fitted is not None:
            self.fitted[position] = _FITTED.decode(fitted)


def decode_page(body: bytes | memoryview, page: int, source: str) -> Records:
    """Decode one page: an array of allocations, one allocation, or several in a row.

    Raises
    ------
    DecodeError
        The page is not complete JSON.
    """
    try:
        records = _PAGE.decode(body)
        return Records(page, source, body, records, range(len(records)))
    except _ODD:
        pass  # it is not one array, or a record does not fit: look at each
    result = Records(page, source, body, positions=[])
    for position, raw in enumerate(split_records(body, source)):
        result.add(position, raw)
    return result


def decode_parts(body: bytes | memoryview, page: int, source: str) -> Iterator[Records]:
    """Decode one page, a large one in parts, so that not all of its records are in memory at once.

    Raises
    ------
    DecodeError
        The page is not complete JSON.
    """
    if len(body) <= PART:
        yield decode_page(body, page, source)
        return
    texts = list(split_records(body, source))
    start = 0
    while start < len(texts):
        part, size = Records(page, source, b"", positions=[], _raw=texts), 0
        while start < len(texts) and size < PART:
            part.add(start, texts[start])
            size += len(bytes(texts[start]))
            start += 1
        part.size = size
        yield part


def decode_list(body: bytes, page: int, source: str) -> Iterable[Records] | None:
    """Decode a file if it is one list of allocations, as nearly all are; else return None."""
    if len(body) <= PART:
        with contextlib.suppress(*_ODD):
            records = _PAGE.decode(body)
            if all(map(_is_sure, records)):
                return [Records(page, source, body, records, range(len(records)))]
    return decode_parts(body, page, source) if is_plain_list(body) else None


def _is_sure(record: Any) -> bool:
    """Return whether this is an allocation and no other object with an ID."""
    return record.ID is not None and not (record.TaskGroup is None and record.ClientStatus is None)


def split_records(body: bytes | memoryview, source: str) -> Iterable[Any]:
    """Return the text of each record of a page."""
    with contextlib.suppress(*_ODD):
        return _RAW_PAGE.decode(body)
    if bytes(body[:1]) == b"{":
        with contextlib.suppress(*_ODD):
            return _RAW.decode_lines(body)
    return lenient_json.split_records(bytes(body), source)


def build_tables(pages: Sequence[Records]) -> dict[str, pa.Table]:
    """Return the tables of decoded pages, with the column `ALLOC_ROW`.

    A record with a value that its column cannot hold moves to its page's `fitted`, and is noted there.
    """
    by_number = {page.page: page for page in pages}
    records = list(chain.from_iterable(page.records for page in pages))
    rows = [_row_numbers(page.page, page.positions) for page in pages]
    batches = list(_build(records, np.concatenate(rows) if rows else _NO_ROWS, by_number))
    fitted = [
        ((page.page << ROW_BITS) + position, record)
        for page in pages
        for position, record in page.fitted.items()
    ]
    if fitted:
        numbers = np.array([number for number, _ in fitted], dtype=np.int64)
        batches.append(flatten([record for _, record in fitted], numbers, strict=False))
    return {name: pa.Table.from_batches([batch[name] for batch in batches]) for name in TABLES}


def _build(
    records: list[Any], numbers: np.ndarray[Any, Any], pages: dict[int, Records]
) -> Iterator[dict[str, pa.RecordBatch]]:
    """Yield tables of the records. Halve them until the one that does not fit is among few."""
    try:
        yield flatten(records, numbers)
        return
    except MisfitError:
        pass
    if len(records) > _FEW:
        half = len(records) // 2
        yield from _build(records[:half], numbers[:half], pages)
        yield from _build(records[half:], numbers[half:], pages)
        return
    for number in numbers.tolist():
        pages[number >> ROW_BITS].fit(number & (2**ROW_BITS - 1))
    yield flatten([], _NO_ROWS)


def _row_numbers(page: int, positions: Sequence[int]) -> np.ndarray[Any, Any]:
    return (page << ROW_BITS) + np.asarray(positions, dtype=np.int64)


_NO_ROWS = np.empty(0, dtype=np.int64)


def flatten(
    records: Sequence[Any], numbers: np.ndarray[Any, Any], *, strict: bool = True
) -> dict[str, pa.RecordBatch]:
    """Return the tables of decoded allocations, with their rows' `numbers` as the column `ALLOC_ROW`.

    Raises
    ------
    MisfitError
        A value is one that its column cannot hold; only if `strict`.
    """
    allocations = Rows(records, strict=strict)
    kinds = {
        "allocations": allocations,
        **_task_rows(allocations),
        "reschedules": _reschedule_rows(allocations),
        "resources": _resource_rows(allocations),
        "scored_nodes": _scored_nodes(allocations),
    }
    tables = {}
    for name, table in TABLES.items():
        rows = kinds[table.source]
        row_numbers = numbers if rows.parent_of is None else numbers[rows.parent_of]
        tables[name] = table.read(rows).append_column(ALLOC_ROW, pa.array(row_numbers, pa.int64()))
    return tables


def _places(values: Sequence[int]) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int32)


def _unnest(
    lists: Sequence[list[Any] | None], parents: np.ndarray[Any, Any]
) -> tuple[list[Any], np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the items of lists, the list of each, the parent of that list, and each item's place in it.

    Items that are null are left out, but keep their place.
    """
    counts = np.array([len(items or ()) for items in lists], dtype=np.int64)
    items = list(chain.from_iterable(filter(None, lists)))
    of_list = np.repeat(np.arange(len(lists), dtype=np.int32), counts)
    place = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
    if None in items:
        there = np.array([item is not None for item in items])
        items = [item for item in items if item is not None]
        of_list, place = of_list[there], place[there]
    return items, of_list, parents[of_list], place


def _task_rows(allocations: Rows) -> dict[str, Rows]:
    parents, names, states = [], [], []
    for number, tasks in enumerate(allocations.field("TaskStates")):
        if tasks:
            for name, state in tasks.items():
                if state is not None:
                    parents.append(number)
                    names.append(name)
                    states.append(state)
    parent_of, labels = _places(parents), encode(pa.array(names, TEXT))
    event_lists = [state.Events for state in states]
    counts = pa.array([len(events or ()) for events in event_lists], pa.int64())
    if not allocations.strict:
        event_lists = [_without_nulls(events) for events in event_lists]
    events, task_of, alloc_of, seq = _unnest(event_lists, parent_of)
    templates, template_of, times = _read_events(events, strict=allocations.strict)
    is_first = seq == 0
    begins = np.zeros(len(states), dtype=bool)
    begins[task_of[is_first]] = templates.is_type(("Received",))[template_of[is_first]]
    of_tasks = {"task": labels, "event_count": counts, "begins": begins}
    of_events = {"task": repeat(labels, task_of), "seq": pa.array(seq, pa.int64()), "Time": times}
    return {
        "tasks": Rows(states, allocations, parent_of, of_tasks, strict=allocations.strict),
        "events": Rows(events, allocations, alloc_of, of_events, templates, template_of),
    }


def _without_nulls(events: Sequence[msgspec.Raw] | None) -> list[msgspec.Raw | None]:
    """Return events, with None for each that is null: only the lenient reader leaves any."""
    return [None if bytes(event) == b"null" else event for event in events or ()]


def _read_events(
    events: Sequence[msgspec.Raw], *, strict: bool
) -> tuple[Rows, np.ndarray[Any, Any], pa.Array[Any]]:
    """Return the different events as templates, and the template and the time of each event.

    Raises
    ------
    MisfitError
        An event does not fit its type.
    """
    found = find_templates(events)
    try:
        templates = list(map(_EVENT.decode, found.texts))
        own_times = pa.array([template.Time for template in templates], pa.int64())
    except (*_ODD, OverflowError) as error:
        raise MisfitError from error
    own: Any = own_times.take(pa.array(found.code))
    if not (found.has_time <= (own.fill_null(0).to_numpy() == SAME_TIME)).all():
        raise MisfitError("Time")  # of two equal keys the last counts, and the one that was read is another
    times: Any = pa.array(found.times)
    if not found.has_time.all():
        times = pc.if_else(pa.array(found.has_time), times, own)
    return Rows(templates, strict=strict), found.code, times


def _reschedule_rows(allocations: Rows) -> Rows:
    lists = allocations.field("RescheduleTracker.Events")
    items, _, alloc_of, seq = _unnest(lists, np.arange(len(lists), dtype=np.int32))
    return Rows(items, allocations, alloc_of, {"seq": pa.array(seq, pa.int64())})


def _resource_rows(allocations: Rows) -> Rows:
    """Return a row for each task, and one for what the allocation shares."""
    rows: list[tuple[Any, ...]] = []
    for number, resources in enumerate(allocations.field("AllocatedResources")):
        if resources is None:
            continue
        for name, task in (resources.Tasks or {}).items():
            cpu, memory = (task and task.Cpu), (task and task.Memory)
            rows.append(
                (
                    number,
                    name,
                    cpu and cpu.CpuShares,
                    memory and memory.MemoryMB,
                    memory and memory.MemoryMaxMB,
                    None,
                    _ports_of(task and task.Networks),
                )
            )
        shared = resources.Shared
        ports = shared and (_ports_of(shared.Networks) if shared.Ports is None else shared.Ports)
        rows.append((number, None, None, None, None, shared and shared.DiskMB, ports))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 7
    names = ("cpu", "memory", "memory_max", "disk", "ports")
    extra: dict[str, Any] = dict(zip(names, columns[2:], strict=True))
    extra["task"] = encode(pa.array(columns[1], TEXT))
    return Rows([None] * len(rows), allocations, _places(columns[0]), extra, strict=allocations.strict)


def _ports_of(networks: Sequence[Any] | None) -> list[Any]:
    return [
        port
        for network in networks or ()
        if network is not None
        for port in [*(network.ReservedPorts or ()), *(network.DynamicPorts or ())]
    ]


def _scored_nodes(allocations: Rows) -> Rows:
    """Return a row for each node that the scheduler scored, or one without a node if there is none."""
    rows = [
        (number, metrics, node)
        for number, metrics in enumerate(allocations.field("Metrics"))
        if metrics is not None
        for node in metrics.ScoreMetaData or [None]
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 3
    extra = {"metrics": columns[1], "node": columns[2]}
    return Rows([None] * len(rows), allocations, _places(columns[0]), extra, strict=allocations.strict)
