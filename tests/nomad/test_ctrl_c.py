"""Ctrl-C at every instant of a call: the call ends, and the client stays usable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from faultserver import ROW, any_json, serving
from interrupting import ctrl_c_at, hung_after

import allocframe as af

STEP = 19
"""One of this many instants is tried: all of them would take a while, and are of a few kinds."""

pytestmark = pytest.mark.timeout(150)


def _read(client: af.Client) -> None:
    client._session.transport.get(f"/v1/allocation/{ROW['ID']}", {})


def _exec(client: af.Client) -> None:
    with contextlib.suppress(af.ConnectionFailed):  # this server opens no WebSocket
        client.exec(str(ROW["ID"]), ["x"], task="t")


@pytest.mark.parametrize("call", [_read, _exec])
@pytest.mark.parametrize(("where", "step"), [("httpcore/_synchronization", 1), ("", STEP)])
def test_ctrl_c_at_any_instant_ends_a_call_and_leaves_the_client_all_its_connections(
    call: Callable[[af.Client], None], where: str, step: int
) -> None:
    moment, lost = 1, []
    with serving(any_json(dict(ROW))) as server, af.Client(server.address, retries=0) as client:
        call(client)  # imports what it needs, which is no part of it later
        while True:
            with (
                hung_after(20) as late,
                contextlib.suppress(KeyboardInterrupt),
                ctrl_c_at(moment, where) as seen,
            ):
                call(client)
            lost += [(moment, text) for text in late]
            assert not lost
            if seen() < moment:
                break
            moment += step
            call(client)
            pool = client._session.transport._client._transport._pool
            assert [each for each in pool.connections if not each.is_idle() and not each.is_closed()] == []
