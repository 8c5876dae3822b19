"""What each task did from one start to the next, and how that ended.

`stats/_attempts.py` reads the same events. It runs on any engine, from pandas to Spark, and tells as many
causes as rates need. This one also reads Nomad's words, tells more ends, and takes half the time, because its
rows are numbered already. One reader for both would be slower or know less. So both take their rules from
`stats/vocabulary`, and tests hold them to the same attempts, starts and ends on captures of real agents.

An attempt ends with `Restarting`; a second `Started` begins one, too, because the client may have lost the
end of the run before it (a reboot). Only the first attempt in a truncated event history can
lack its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..stats import vocabulary
from ..stats._derived import pop_columns
from ._tables import EVENTS_AT_ONCE, NEVER, Array, Rows, categories

FAILURES = (
    "crash", "killed", "out of memory", "artifact", "driver", "template", "secrets", "health check", "volume",
    "run duration", "unknown",
)  # fmt: skip
"""The ends that are failures, by the kind of their cause."""

SOFT = ("requested", "stopped", "forced", "completed", "sibling", "interrupted", "cut", "running")
"""The ends that are none.

"forced" is a requested end that took a SIGKILL, "interrupted" has no end on record, and of one that is "cut"
the ring has kept the decision alone: only the counter of restarts tells of it.
"""

ENDS = (*FAILURES, *SOFT)

_PATTERNS = tuple((kind, re.compile(words, re.IGNORECASE)) for kind, words in vocabulary.ERROR_WORDS)

_KINDS = {"artifact": "artifact", "driver": "driver", "validation": "driver"}
_BY_START = {name: _KINDS[cause] for name, cause in vocabulary.FAILED_STARTS.items() if cause in _KINDS}
"""Failed starts whose type alone names the cause; `Setup Failure` does not."""


def kind_of_text(text: str, otherwise: str = "unknown") -> str:
    """Return the kind of cause that an error of Nomad's names."""
    return next((kind for kind, pattern in _PATTERNS if pattern.search(text)), otherwise)


def read_attempts(evidence: Rows) -> pd.DataFrame:
    """Return one row for each attempt of each task, read from some of the events at a time.

    Columns: `owner` (row of its task), `end` (position in `ENDS`), `text` (position in the categories of the
    events' text, of what names the cause), `code` and `signal` (-1 if no process exited), `told` (the driver
    says whether memory ran out), `first`, `started`, `at` (times; `at` is that of its end), `requested_by`,
    `decision` (1 restarts, 2 gave up), `asked_restart`, `restarts` (events of that name).
    """
    _, texts = categories(evidence.events["text"].iloc[:0])
    words = _Words(_ends_by_text(texts), _says(texts, vocabulary.RUN_DURATION))
    parts = [_read_part(evidence, part, words) for part in _cut(evidence.events)]
    return pd.DataFrame({name: column.array for name, column in pop_columns(parts)}, copy=False)


def _cut(events: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield about `EVENTS_AT_ONCE` events at a time without splitting a task."""
    owner, start = events["owner"].to_numpy(), 0
    while len(owner) - start > EVENTS_AT_ONCE:
        end = int(np.searchsorted(owner, owner[start + EVENTS_AT_ONCE], side="right"))
        yield events.iloc[start:end]
        start = end
    yield events.iloc[start:]


@dataclass(frozen=True)
class _Words:
    """What each text means: the end that it names, and whether it says that a run took too long."""

    ends: Array
    overran: Array


def _read_part(evidence: Rows, events: pd.DataFrame, words: _Words) -> pd.DataFrame:
    attempt, owner_of = _boundaries(events)
    count = len(owner_of)
    kinds, names = categories(events["type"])
    text, texts = categories(events["text"])
    silent = len(texts) - 1
    times = events["time"].to_numpy()

    def is_type(*types: str) -> Array:
        wanted = np.isin(names, types)
        return wanted[kinds]

    def last(mask: Array) -> Array:
        """Return the position of the last such event of each attempt, -1 for none."""
        place = np.full(count, -1, dtype=np.int64)
        where = np.flatnonzero(mask)
        place[attempt[where]] = where
        return place

    def first(mask: Array) -> Array:
        place = np.full(count, -1, dtype=np.int64)
        where = np.flatnonzero(mask)[::-1]
        place[attempt[where]] = where
        return place

    def pick(values: Array, place: Array, missing: Any) -> Array:
        return np.where(place >= 0, values[np.maximum(place, 0)], missing) if len(values) else place

    everything = np.ones(len(events), dtype=bool)
    begin, final = first(everything), last(everything)
    started, terminated = first(is_type("Started")), last(is_type("Terminated"))
    killing, killed = first(is_type("Killing")), last(is_type("Killed"))
    fails = events["fails_task"].to_numpy()
    fatal = first(is_type("Killing", "Killed") & fails)
    overrun = first(is_type("Killing", "Killed") & words.overran[text])
    asked = last(is_type("Restart Signaled"))
    restarting, gave_up = last(is_type("Restarting")), last(is_type("Not Restarting"))
    reason, reasons = categories(events["restart_reason"])
    no_reason = first(is_type("Restarting") & (reason == len(reasons) - 1))
    unhealthy_plugin = last(is_type("Plugin became unhealthy"))
    failed_start = last(is_type(*vocabulary.FAILED_STARTS))
    by_type = vocabulary.ENDED_BY.items()
    soft = last(is_type(*(name for name, cause in by_type if cause != "disk")))
    full_disk = last(is_type(*(name for name, cause in by_type if cause == "disk")))
    signaled = last(is_type("Signaling"))
    lost_task = last(is_type("Failed Restoring Task"))
    hook = last(is_type(vocabulary.HOOK_FAILED))

    code, signal = (pick(events[name].to_numpy(), terminated, -1) for name in ("exit_code", "signal"))
    oom, told = (pick(events[name].to_numpy(), terminated, False) for name in ("oom", "told"))
    by_text = words.ends
    exits = terminated >= 0
    # before the exit: afterwards, or after the policy gave up, it is housekeeping
    before = exits & (killing >= 0) & (killing < terminated)
    ended_by_nomad = before | ((killing >= 0) & ~exits & (gave_up < 0)) | ((killed >= 0) & (gave_up < 0))
    decided = (restarting >= 0) | (gave_up >= 0)
    jobs_restart = _restarts_after_success(evidence, owner_of)

    health = (asked >= 0) & (by_text[pick(text, asked, silent)] == ENDS.index("health check"))
    plugin = (no_reason >= 0) & (unhealthy_plugin >= 0)
    requested = ((asked >= 0) | (no_reason >= 0)) & ~health & ~plugin
    own_end = _by_exit(code, signal, oom.astype(bool), decided & jobs_restart)
    forced = _is_sigkill(code, signal)
    by_signal = _asked_signal(events, signaled, code, signal, terminated, times)

    end = np.full(count, ENDS.index("running"), dtype=np.int64)

    def rule(mask: Array, value: Any) -> None:
        """Decide those that no earlier rule has decided."""
        undecided = mask & (end == ENDS.index("running"))
        end[undecided] = value[undecided] if isinstance(value, np.ndarray) else value

    start_kind = np.full(count, ENDS.index("unknown"), dtype=np.int64)
    for name, kind in _BY_START.items():
        start_kind[pick(is_type(name), failed_start, False).astype(bool)] = ENDS.index(kind)
    by_setup = (start_kind == ENDS.index("unknown")) & (failed_start >= 0)
    start_text = by_text[pick(text, failed_start, silent)]
    start_kind = np.where(
        by_setup, np.where(start_text == ENDS.index("unknown"), ENDS.index("driver"), start_text), start_kind
    )

    rule(failed_start >= 0, start_kind)
    rule(overrun >= 0, ENDS.index("run duration"))
    rule((fatal >= 0) & ((fatal < terminated) | ~exits), by_text[pick(text, fatal, silent)])
    rule(health | plugin, ENDS.index("health check"))
    rule(requested & exits & forced, ENDS.index("forced"))
    rule(requested, ENDS.index("requested"))
    rule((soft >= 0) & (ended_by_nomad | ~exits), ENDS.index("sibling"))
    rule(full_disk >= 0, ENDS.index("unknown"))
    rule(ended_by_nomad & exits & forced, ENDS.index("forced"))
    rule(ended_by_nomad, ENDS.index("stopped"))
    rule(by_signal, ENDS.index("requested"))
    rule(exits, own_end)
    head = np.append(True, owner_of[1:] != owner_of[:-1]) if count else np.zeros(0, dtype=bool)
    rule(head & (restarting == begin) & (restarting >= 0), ENDS.index("cut"))
    # a hook that fails before the start has no other word, and what the policy decides then says nothing
    of_hook = by_text[pick(text, hook, silent)]
    by_setup_hook = (end == ENDS.index("running")) & decided & (hook >= 0) & (started < 0)
    rule(by_setup_hook, np.where(of_hook == ENDS.index("unknown"), ENDS.index("driver"), of_hook))
    rule(decided, ENDS.index("unknown"))
    later = np.append(owner_of[1:] == owner_of[:-1], False) if count else np.zeros(0, dtype=bool)
    rule((started >= 0) & later, ENDS.index("interrupted"))
    rule(lost_task >= 0, ENDS.index("interrupted"))

    # a script that fails names itself in its hook's words, and the kill for it does not
    by_hook = by_setup_hook | (fatal >= 0) & (hook >= 0) & (of_hook == by_text[pick(text, fatal, silent)])
    cause = np.select(
        [
            by_hook, failed_start >= 0, overrun >= 0, fatal >= 0, asked >= 0, unhealthy_plugin >= 0,
            full_disk >= 0, by_signal,
        ],
        [hook, failed_start, overrun, fatal, asked, unhealthy_plugin, full_disk, signaled],
        default=gave_up,
    )  # fmt: skip
    over = np.select(
        [failed_start >= 0, exits, fatal >= 0, killed >= 0, decided],
        [failed_start, terminated, fatal, killed, np.maximum(restarting, gave_up)],
        default=final,
    )
    frame = pd.DataFrame(
        {
            "owner": owner_of,
            "end": end.astype(np.int8),
            "text": pick(text, cause, silent).astype(np.int32),
            "code": code,
            "signal": signal,
            "told": told.astype(bool),
            "first": pick(times, begin, NEVER),
            "started": pick(times, started, NEVER),
            "at": pick(times, over, NEVER),
            "by_signal": by_signal,
            "decision": np.where(gave_up >= 0, 2, np.where(restarting >= 0, 1, 0)).astype(np.int8),
            "restarts": np.bincount(attempt[is_type(vocabulary.RESTART)], minlength=count).astype(np.int32),
        }
    )
    return _merge_ends_of_requests(frame)


def _boundaries(events: pd.DataFrame) -> tuple[Array, Array]:
    """Return the attempt of each event, and the task of each attempt."""
    owner = events["owner"].to_numpy()
    if not len(owner):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    kinds, names = categories(events["type"])
    starts, restarts, exit_follows = (
        np.isin(names, types)[kinds] for types in (("Started",), ("Restarting",), ("Terminated", "Killed"))
    )
    new_task = np.append(True, owner[1:] != owner[:-1])
    after_restart = np.append(False, restarts[:-1])
    # the exit that follows a request's `Restarting` belongs to the attempt that the request ended
    begins = new_task | (after_restart & ~exit_follows)
    # a second start without an end: of each group, the first `Started` continues it, the others begin anew
    total = np.cumsum(starts)
    at_begin = np.where(begins, total - starts, 0)
    rank: Array = total - np.maximum.accumulate(at_begin)
    begins |= starts & (rank > 1)
    return np.cumsum(begins) - 1, owner[begins]


def _says(texts: list[str], words: str) -> Array:
    return np.array([words in text for text in texts], dtype=bool)


def _ends_by_text(texts: list[str]) -> Array:
    return np.array([ENDS.index(kind_of_text(text)) for text in texts], dtype=np.int64)


def _restarts_after_success(evidence: Rows, owner: Array) -> Array:
    """Return whether the job of each attempt should run for ever, so that success is an end too early."""
    types = evidence.allocations["job_type"].astype("str").to_numpy(dtype=object)
    alloc = evidence.tasks["alloc"].to_numpy()[owner] if len(owner) else owner
    result: Array = ~np.isin(types[alloc], ("batch", "sysbatch")) if len(owner) else np.zeros(0, dtype=bool)
    return result


def _is_sigkill(code: Array, signal: Array) -> Array:
    killed: Array = (signal == 9) | (code == vocabulary.SIGKILL_CODE)
    return killed


def _by_exit(code: Array, signal: Array, oom: Array, too_early: Array) -> Array:
    """Return the end that an exit alone means."""
    # a program that ends by a signal has one, or its shell's code for it
    by = np.where(
        signal > 0,
        signal,
        np.where(
            (code > vocabulary.SHELL_SIGNAL) & (code < vocabulary.SHELL_SIGNAL + 65),
            code - vocabulary.SHELL_SIGNAL,
            0,
        ),
    )
    known_signal = np.isin(by, list(vocabulary.SIGNALS))
    own = np.isin(by, vocabulary.OWN_SIGNALS)
    return np.select(
        [
            oom,
            known_signal & own,
            known_signal,
            code > 0,
            code < -1,  # Windows
            (code == 0) & too_early,
            code == 0,
        ],
        [
            ENDS.index(name)
            for name in ("out of memory", "crash", "killed", "crash", "crash", "crash", "completed")
        ],
        default=ENDS.index("unknown"),
    )


def _asked_signal(
    events: pd.DataFrame, signaled: Array, code: Array, signal: Array, terminated: Array, times: Array
) -> Array:
    """Return which exits follow a signal that somebody sent through Nomad."""
    if not len(times):
        return signaled >= 0
    sent_code, sent_names = categories(events["task_signal"])
    sent = np.array([vocabulary.SIGNAL_NUMBERS.get(name, -1) for name in sent_names])[sent_code]
    sent = sent[np.maximum(signaled, 0)]
    by = np.where(signal > 0, signal, code - vocabulary.SHELL_SIGNAL)
    soon = (
        times[np.maximum(terminated, 0)] - times[np.maximum(signaled, 0)] <= 1000 * vocabulary.SIGNAL_DELAY_US
    )
    result: Array = (signaled >= 0) & (terminated > signaled) & (sent == by) & soon
    return result


def _merge_ends_of_requests(frame: pd.DataFrame) -> pd.DataFrame:
    """Give an exit without a start the end of the request just before it: it is the request's own kill."""
    if len(frame) < 2:
        return frame
    owner, end = frame["owner"].to_numpy(), frame["end"].to_numpy().copy()
    requested = np.isin(end, [ENDS.index(name) for name in ("requested", "forced", "health check")])
    follows = np.append(False, (owner[1:] == owner[:-1]) & requested[:-1])
    orphan = follows & (frame["started"].to_numpy() == NEVER) & (frame["code"].to_numpy() != -1)
    own = np.isin(end, [ENDS.index(name) for name in ("crash", "killed", "out of memory")])
    end[orphan & own] = ENDS.index("requested")
    return frame.assign(end=end)
