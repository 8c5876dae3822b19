"""A canary token is looked for everywhere it must not be."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
import warnings
from pathlib import Path

import pytest
from faultserver import good, http, reset, serving

import allocframe as af

CANARY = "c4na21e5-dead-beef-0000-secretsecret"


def test_the_token_goes_into_its_header_and_nowhere_else_in_the_request() -> None:
    with serving(good()) as server, af.Client(server.address, token=CANARY) as client:
        client.snapshot(progress=False)
        head = server.raw[0].decode()
        assert head.count(CANARY) == 1
        assert f"x-nomad-token: {CANARY}" in head.lower()


def test_the_token_is_in_no_repr_log_file_or_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(good()) as server, af.Client(server.address, token=CANARY) as client:
        snap = client.snapshot(progress=False)
        alive = client._transport._client
        shown = [repr(client), str(vars(client)), repr(client._config), repr(client._transport.__dict__)]
        shown += [
            repr(alive.headers if alive else None),
            repr(snap),
            snap._repr_html_(),
            json.dumps(snap.info),
        ]
        shown += [str(snap.allocations.attrs), caplog.text]
        snap.save(tmp_path / "x.allocframe")
        snap.to_parquet(tmp_path / "p")
        snap.to_csv(tmp_path / "c")
        for file in [*snap._capture.folder.rglob("*"), *tmp_path.rglob("*")]:
            if file.is_file():
                assert CANARY.encode() not in file.read_bytes(), file
    assert CANARY not in "".join(shown)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"Permission denied", "403 Forbidden", length=17),
        http(b"<html>", length=6, kind="text/html"),
        reset,
    ],
)
def test_the_token_is_in_no_error_or_traceback(answer: bytes) -> None:
    with serving(answer) as server, af.Client(server.address, token=CANARY, retries=0) as client:
        with pytest.raises(af.AllocframeError) as caught:
            client.snapshot(progress=False)
        told = "".join(
            traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
        )
        assert CANARY not in told + repr(caught.value) + str(vars(caught.value))
        assert CANARY.encode() not in pickle.dumps(caught.value)


def test_a_client_with_a_token_is_neither_pickled_nor_copied() -> None:
    with af.Client("http://127.0.0.1:1", token=CANARY) as client:
        with pytest.raises(TypeError) as caught:
            pickle.dumps(client._config)
        assert CANARY not in str(caught.value)
        with pytest.raises(TypeError):
            copy.deepcopy(client._config)


def test_warnings_name_the_address_and_not_the_token() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        af.Client("http://nomad.example:4646", token=CANARY).close()
    assert caught
    assert CANARY not in "".join(str(w.message) for w in caught)


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password netrc-secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with serving(good()) as server, af.Client(server.address) as client:
        client.snapshot(progress=False)
        assert b"authorization" not in server.raw[0].lower()
