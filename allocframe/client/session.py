"""The connection behind a client: settings, transport and the few calls that everything else is made of.

`Client` and the functions in `actions`, `logs` and `usage` work on a `Session`. Widgets, reports and
`Fleet` reach it as ``client._session``: it is internal to this package, and no part of the public API.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .._utils.interrupts import finalize
from .._utils.text import visible
from .._utils.validate import check_seconds
from ..errors import AllocframeError, BadRequest, ConfigError, DecodeError, NotFound
from ..nomad import acl, protocol
from ..nomad.config import Config
from ..nomad.protocol import Query
from ..nomad.transport import Response, Transport, parse_allocation, parse_json

TIMEOUT = 30.0
"""Seconds that one request may take, its retries included, unless the caller sets another limit."""

RETRIES = 4
"""How often a read is repeated, unless the caller sets another number."""

_MAX_IDS_SHOWN = 10


class Session:
    """One cluster's settings, transport and shared calls.

    Parameters
    ----------
    config : Config
        The address, token and TLS settings of the cluster.
    timeout : float
        Seconds that one request may take, its retries included.
    retries : int
        How often a read is repeated.
    read_only : bool
        Refuse every call that changes something.

    Raises
    ------
    ConfigError
        A setting cannot be used.
    """

    def __init__(
        self, config: Config, *, timeout: float = TIMEOUT, retries: int = RETRIES, read_only: bool = False
    ) -> None:
        check_seconds("timeout", timeout)
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ConfigError(f"retries must be a whole number of 0 or more, got {retries!r}")
        self.config = config
        self.read_only = read_only
        self.transport: Transport = Transport(
            config, timeout=float(timeout), retries=retries, read_only=read_only
        )
        self._timeout = float(timeout)
        self._retries = retries
        self._accessor: str | None = None
        finalize(self, self.transport.close)

    def clone(self, *, region: str | None = None) -> Session:
        """Return a session with the same settings, perhaps for another region, and connections of its own."""
        config = self.config if region is None else replace(self.config, region=region)
        return Session(config, timeout=self._timeout, retries=self._retries, read_only=self.read_only)

    def close(self) -> None:
        """Close every connection."""
        self.transport.close()

    def query(self, *, namespace: str | None = None, **options: Any) -> Query:
        """Return a query for allocations, with the session's namespace and region as defaults."""
        return Query(namespace=namespace or self.config.namespace, region=self.config.region, **options)

    @property
    def region_params(self) -> dict[str, str]:
        """The query parameter that names the region; empty if the session has none."""
        return {"region": self.config.region} if self.config.region else {}

    def get_json(self, path: str) -> Any:
        """Return the parsed answer to a read."""
        return self.transport.get(path, self.region_params, check=parse_json)

    def get_rows(self, path: str, params: dict[str, str]) -> list[dict[str, Any]]:
        """Return the objects in the answer to a read that must be a list."""
        rows: list[dict[str, Any]] = self.transport.get(path, params, check=_parse_rows)
        return rows

    def read_allocation(self, alloc_id: str) -> dict[str, Any]:
        """Return an allocation as the server has it now; `alloc_id` is a whole UUID."""
        path, check = f"/v1/allocation/{alloc_id}", parse_allocation(alloc_id)
        alloc: dict[str, Any] = self.transport.get(path, self.region_params, check=check)
        return alloc

    def resolve_id(self, alloc_id: str) -> str:
        """Return the whole UUID for a UUID or an unambiguous prefix of one.

        Raises
        ------
        ConfigError
            The text is not part of a UUID.
        NotFound
            No allocation has this prefix, or several do.
        """
        text, is_whole = protocol.check_alloc_id(alloc_id)
        if is_whole:
            return text
        # Servers refuse a prefix with an odd number of digits, so ask for one digit less and filter here.
        query = Query(
            namespace="*", region=self.config.region, prefix=protocol.even_head(text), task_states=False
        )
        rows = self.get_rows(protocol.LIST, query.params(paged=False))
        ids = [row["ID"] for row in rows if isinstance(row.get("ID"), str)]
        matches = sorted(identity for identity in ids if identity.startswith(text))
        if len(matches) == 1:
            return str(matches[0])
        if not matches:
            raise NotFound(
                0, f"no allocation starts with {text!r}", path=protocol.LIST, hint=protocol.NOT_VISIBLE
            )
        rest = ", …" if len(matches) > _MAX_IDS_SHOWN else ""
        message = (
            f"{len(matches)} allocations start with {text!r}: {', '.join(matches[:_MAX_IDS_SHOWN])}{rest}"
        )
        raise NotFound(0, message, path=protocol.LIST, hint="Give more digits of the ID")

    @contextlib.contextmanager
    def naming_tasks(self, alloc_id: str) -> Iterator[None]:
        """Add the names of the allocation's tasks to an error in the block about an unknown task."""
        try:
            yield
        except BadRequest as error:
            if not protocol.is_unknown_task(error):
                raise
            status, text, method, path = error.status, error.text, error.method, error.path
        else:
            return
        try:
            tasks = sorted(self.read_allocation(alloc_id).get("TaskStates") or {})
        except AllocframeError:
            tasks = []
        hint = f"Its tasks are: {', '.join(map(visible, tasks))}" if tasks else "Check the name of the task"
        raise BadRequest(status, text, method=method, path=path, hint=hint)

    def rights(self) -> acl.Rights:
        """Return what this session's token may do, as far as it can be read."""
        return acl.read_rights(self.get_json)

    def explain_nothing(self, namespace: str) -> str | None:
        """Return why an empty list may be empty although there are allocations; None if there are none.

        Servers leave out what a token may not read, without an error.
        """
        rights = self.rights()
        if rights.everything:
            return None
        if not self.config.token:
            return "no token was sent: with ACLs, servers then show nothing. Set NOMAD_TOKEN"
        if not rights.complete:
            return "it is not known what this token (NOMAD_TOKEN) may read: it may be hidden from it"
        if rights.may("read-job", namespace):  # for "*": a policy for every namespace
            return None
        if namespace != "*":
            return f"this token (NOMAD_TOKEN) may not read-job in namespace {visible(namespace)}"
        names = sorted(name for name in rights.granted if rights.may("read-job", name))
        if not names:
            return "this token (NOMAD_TOKEN) may read-job in no namespace"
        return f"this token (NOMAD_TOKEN) may read-job only in {visible(', '.join(names))}"

    def accessor(self) -> str | None:
        """Return the token's accessor ID, or None if it cannot be read. It identifies the token and grants
        nothing.
        """
        if self._accessor is None:
            self._accessor = acl.read_accessor(self.get_json)
        return self._accessor

    def check_may_change(self) -> None:
        """Refuse a change before anything is sent.

        Raises
        ------
        AllocframeError
            The session is read-only or closed.
        """
        if self.read_only:
            raise AllocframeError("nothing was done: this client is read-only (read_only=True)")
        self.transport.check_usable()


def _parse_rows(response: Response) -> list[dict[str, Any]]:
    """Return the objects of an answer that must be a list, for `Transport.get`."""
    rows = parse_json(response)
    if not isinstance(rows, list | None):
        raise DecodeError("the answer is not a list")
    return [row for row in rows or [] if isinstance(row, dict)]
