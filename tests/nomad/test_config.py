"""Settings: argument before environment before default; bad ones say what, where, and what to do."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest

from allocframe.errors import ConfigError
from allocframe.nomad.config import Config, Secret


def load(address: str | None = None, *, env: dict[str, str] | None = None, **arguments: object) -> Config:
    return Config.load(address, environ=env or {}, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "base", "socket"),
    [
        ("http://127.0.0.1:4646", "http://127.0.0.1:4646", None),
        ("  https://nomad.example/  ", "https://nomad.example", None),
        ("https://proxy.example:8443/nomad/", "https://proxy.example:8443/nomad", None),
        ("http://[::1]:4646", "http://[::1]:4646", None),
        ("unix:///run/nomad%20api.sock", "http://localhost", "/run/nomad api.sock"),
    ],
)
def test_addresses_as_the_cli_takes_them(address: str, base: str, socket: str | None) -> None:
    config = load(address)
    assert (config.base_url, config.unix_socket) == (base, socket)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nomad.example:4646", "must be http://host:port"),
        ("ftp://nomad.example", "must be http://host:port"),
        ("http://", "must be http://host:port"),
        ("http://host:notaport", "not a valid URL"),
        ("unix://", "must be unix:///path/to/socket"),
        ("http://user:pw@host", "NOMAD_HTTP_AUTH"),
        ("http://host/?x=1", "must not contain [?] or #"),
        ("http://a b", "not a valid URL"),
        ("http://a\x00b", "not a valid URL"),
        ("http://a\u2028b", "not a valid URL"),
        ("http://a..b", "not a valid URL"),
        ("http://" + "a" * 300, "not a valid URL"),
        ("unix:///run/\x00", "not a valid URL"),
    ],
)
def test_a_bad_address_is_refused_naming_the_variable(address: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load(env={"NOMAD_ADDR": address})
    assert "NOMAD_ADDR" in str(caught.value)
    assert "pw" not in str(caught.value)


def test_argument_before_environment_before_default() -> None:
    env = {
        "NOMAD_ADDR": "http://127.0.0.1:1",
        "NOMAD_NAMESPACE": "a",
        "NOMAD_REGION": "eu",
        "NOMAD_TOKEN": " t0 ",
    }
    assert load().base_url == "http://127.0.0.1:4646"
    assert load(env=env).namespace == "a"
    assert load(env=env).token.reveal() == "t0"
    config = load("http://127.0.0.1:2", env=env, namespace="b", token="t1")
    assert (config.base_url, config.namespace, config.region) == ("http://127.0.0.1:2", "b", "eu")
    assert config.token.reveal() == "t1"


def test_the_task_socket_serves_where_no_address_is_set() -> None:
    assert load(env={"NOMAD_UNIX_ADDR": "unix:///secrets/api.sock"}).unix_socket == "/secrets/api.sock"


@pytest.mark.parametrize("value", ["1", "t", "true", "TRUE"])
def test_skip_verify_is_honoured_with_a_warning(value: str) -> None:
    with pytest.warns(UserWarning, match="not verified"):
        assert load("https://n.example", env={"NOMAD_SKIP_VERIFY": value}).verify is False


def test_skip_verify_that_is_not_a_boolean_is_refused() -> None:
    with pytest.raises(ConfigError, match="NOMAD_SKIP_VERIFY"):
        load(env={"NOMAD_SKIP_VERIFY": "yes please"})


def test_a_token_over_plain_http_to_another_machine_warns_and_to_this_one_does_not() -> None:
    with pytest.warns(UserWarning, match="unencrypted"):
        load("http://nomad.example:4646", token="t")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("http://localhost:4646", token="t")


def test_half_a_client_certificate_is_refused(tmp_path: object) -> None:
    with pytest.raises(
        ConfigError, match=r"must be set together; client_key \(NOMAD_CLIENT_KEY\) is missing"
    ):
        load(client_cert=__file__)


def test_files_that_do_not_exist_are_named_with_their_variable() -> None:
    with pytest.raises(ConfigError, match=r"NOMAD_CACERT.*nowhere\.pem"):
        load(env={"NOMAD_CACERT": "nowhere.pem"})


@pytest.mark.parametrize("token", ["a\nb", "tök", "a\x00"])
def test_a_token_that_no_header_holds_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(token=token)
    assert token not in str(caught.value)


def test_a_secret_is_shown_nowhere_and_never_pickled() -> None:
    secret = Secret("canary")
    assert "canary" not in f"{secret!r} {secret} {secret!s:>30}"
    with pytest.raises(TypeError, match="NOMAD_TOKEN"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="NOMAD_TOKEN"):
        copy.copy(secret)
    assert "canary" not in repr(load(token="canary"))
