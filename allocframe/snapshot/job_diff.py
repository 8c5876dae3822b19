"""What differs between two versions of a job, with values that may be secret hidden.

Nomad has a diff of its own, but only in one answer of its API: not in the event stream, and not in the Raft
log. This one reads the specifications themselves, and gives the same rows wherever they come from.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

_BOOKKEEPING = frozenset({
    "ConsulToken", "CreateIndex", "DispatchIdempotencyToken", "ID", "JobModifyIndex", "ModifyIndex",
    "Namespace", "NomadTokenID", "Stable", "Status", "StatusDescription", "SubmitTime", "Update",
    "VaultToken", "Version", "VersionTag",
})  # fmt: skip
"""Fields of a job that are not part of what its author wrote. `Update` is that of its groups."""

_MAPS = frozenset({
    "Attributes", "CanaryMeta", "CanaryTaggedAddresses", "Env", "GetterHeaders", "GetterOptions", "Header",
    "Meta", "Options", "Parameters", "TaggedAddresses",
})  # fmt: skip
"""Fields whose keys the author chose: they are written ``Env[KEY]``, as Nomad does."""

_SECRET_FIELD = re.compile(r"(?:^|\.)(?:Env\[|Vault|Payload|Secrets)|EmbeddedTmpl|TemplateData")
_SECRET_NAME = re.compile(
    r"passw|passphrase|secret|token|credential|api_?key|private_?key|access_?key|auth|dsn|cookie|pwd|salt"
    r"|signature|cert",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"passw|secret|token|api[_-]?key|credential|bearer |authorization|://[^/@\s]*:[^/@\s]+@|-----BEGIN"
    r"|AKIA[0-9A-Z]{12}|gh[pousr]_|glpat-|hv[sb]\.|eyJ[A-Za-z0-9_-]{8}|xox[abpr]-",
    re.IGNORECASE,
)


class Hasher:
    """Replaces values that may be secret by short hashes.

    The salt is random and never kept. Equal values have equal hashes within one history, and a hash tells
    nothing about its value.

    Parameters
    ----------
    values : bool
        Show every value instead.
    """

    def __init__(self, *, values: bool = False) -> None:
        self._salt = None if values else secrets.token_bytes(16)

    def hide(self, value: str | None) -> str | None:
        """Return the hash of a value, or the value if all values are shown."""
        if value is None or self._salt is None:
            return value
        digest = hmac.new(self._salt, value.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"hash:{digest.hexdigest()[:10]}"


@dataclass(frozen=True)
class _Place:
    """Where a field is: its task group and task, if any, and its path in these."""

    task_group: str | None = None
    task: str | None = None
    path: str = ""
    in_map: bool = False
    """Whether the keys here are the author's."""

    def enter(self, key: str) -> _Place:
        name = f"[{key}]" if self.in_map else f".{key}" if self.path else key
        path = self.path + name
        return replace(self, path=path, in_map=key in _MAPS and not self.in_map)

    def item(self, label: object) -> _Place:
        return replace(self, path=f"{self.path}[{label}]", in_map=False)


def compare_jobs(
    before: Mapping[str, Any], after: Mapping[str, Any], hasher: Hasher
) -> Iterator[dict[str, Any]]:
    """Yield each field that differs between two specifications of a job.

    Parameters
    ----------
    before, after : dict
        Specifications as Nomad's API, event stream or Raft log has them.
    hasher : Hasher
        Hides values that may be secret.

    Yields
    ------
    dict
        ``task_group``, ``task``, ``path``, ``kind``, ``old``, ``new`` and ``sensitive``.

    Examples
    --------
    >>> from allocframe.snapshot.job_diff import Hasher, compare_jobs
    >>> old = {"Priority": 50, "TaskGroups": [{"Name": "app", "Count": 1}]}
    >>> new = {"Priority": 50, "TaskGroups": [{"Name": "app", "Count": 3}]}
    >>> [(row["task_group"], row["path"], row["old"], row["new"]) for row in compare_jobs(old, new, Hasher())]
    [('app', 'Count', '1', '3')]
    """
    for place, old, new in _compare(_without_bookkeeping(before), _without_bookkeeping(after), _Place()):
        texts = _to_text(old), _to_text(new)
        is_sensitive = _may_be_secret(place.path, texts)
        yield {
            "task_group": place.task_group,
            "task": place.task,
            "path": place.path,
            "kind": "added" if old is None else "removed" if new is None else "edited",
            "old": hasher.hide(texts[0]) if is_sensitive else texts[0],
            "new": hasher.hide(texts[1]) if is_sensitive else texts[1],
            "sensitive": is_sensitive,
        }


def digest_job(spec: Mapping[str, Any]) -> str:
    """Return a digest of what the author wrote, the same for versions that do not differ."""
    text = json.dumps(_without_empty(_without_bookkeeping(spec)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _without_bookkeeping(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in _BOOKKEEPING}


def _without_empty(value: Any) -> Any:
    """Return a value without parts that Nomad writes as null, empty, zero or not at all."""
    if isinstance(value, Mapping):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item} or None
    if isinstance(value, list):
        return [_without_empty(item) for item in value] or None
    return value or None


def _compare(old: Any, new: Any, place: _Place) -> Iterator[tuple[_Place, Any, Any]]:
    """Yield the places, old and new values of single fields that differ."""
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        yield from _compare_objects(_mapping(old), _mapping(new), place)
    elif isinstance(old, list) or isinstance(new, list):
        yield from _compare_lists(_list(old), _list(new), place)
    else:
        # Versions of Nomad differ in what they write for a value at its default: null, "", 0 or nothing.
        old, new = (None if value == "" else value for value in (old, new))
        if old != new and not (old is None and not new) and not (new is None and not old):
            yield place, old, new


def _compare_objects(
    old: Mapping[str, Any], new: Mapping[str, Any], place: _Place
) -> Iterator[tuple[_Place, Any, Any]]:
    at_top = not place.path
    for key in sorted(old.keys() | new.keys()):
        pair = old.get(key), new.get(key)
        if at_top and key == "Name" and place.task_group is not None:
            continue
        if at_top and key == "TaskGroups" and place.task_group is None:
            for name, group in _pair_by_name(*map(_list, pair)):
                yield from _compare(*group, _Place(task_group=name))
        elif at_top and key == "Tasks" and place.task is None:
            for name, task in _pair_by_name(*map(_list, pair)):
                own = _without_policy_of_group(task[0], old), _without_policy_of_group(task[1], new)
                yield from _compare(*own, replace(place, task=name))
        else:
            yield from _compare(*pair, place.enter(key))


def _without_policy_of_group(task: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task without the restart policy that servers copy from its group."""
    own = dict(_mapping(task))
    if own.get("RestartPolicy") == group.get("RestartPolicy"):
        own.pop("RestartPolicy", None)
    return own


def _compare_lists(old: list[Any], new: list[Any], place: _Place) -> Iterator[tuple[_Place, Any, Any]]:
    named = [_named(old), _named(new)]
    if all(names is not None for names in named):
        for name, pair in _pair_by_name(old, new):
            yield from _compare(*pair, place.item(name))
    elif place.path.startswith("Config"):  # the order of arguments matters
        for position, pair in enumerate(zip_longest(old, new)):
            yield from _compare(*pair, place.item(position))
    else:
        # Elsewhere the order means nothing: compare only what the other list lacks.
        nothing: tuple[int | None, Any] = (None, None)
        for before, after in zip_longest(_missing_in(old, new), _missing_in(new, old), fillvalue=nothing):
            number = before[0] if after[0] is None else after[0]
            yield from _compare(before[1], after[1], place.item(number))


def _missing_in(items: list[Any], others: list[Any]) -> list[tuple[int | None, Any]]:
    """Return the positions and values of items that `others` has fewer of."""
    rest = [_without_empty(other) for other in others]
    missing: list[tuple[int | None, Any]] = []
    for number, item in enumerate(items):
        plain = _without_empty(item)
        if plain in rest:
            rest.remove(plain)
        else:
            missing.append((number, item))
    return missing


def _pair_by_name(old: list[Any], new: list[Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the names of objects in either list, with the objects; two of one name go by their order."""
    before, after = _named(old) or {}, _named(new) or {}
    for name in [*before, *(name for name in after if name not in before)]:
        yield name, (before.get(name), after.get(name))


def _named(items: list[Any]) -> dict[str, Any] | None:
    """Return objects by name, or None if one of them has none."""
    named: dict[str, Any] = {}
    for item in items:
        name = item.get("Name") if isinstance(item, Mapping) else None
        if not isinstance(name, str) or not name:
            return None
        number, label = 2, name
        while label in named:
            number, label = number + 1, f"{name}#{number}"
        named[label] = item
    return named


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _to_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else value.encode("utf-8", "replace").decode()
    return json.dumps(value)


def _may_be_secret(path: str, texts: tuple[str | None, str | None]) -> bool:
    if _SECRET_FIELD.search(path) or _SECRET_NAME.search(path):
        return True
    return any(text is not None and _SECRET_VALUE.search(text) for text in texts)
