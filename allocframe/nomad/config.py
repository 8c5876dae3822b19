"""The settings of one cluster, as a frozen `Config`.

Arguments win over ``NOMAD_*`` variables, and those over defaults.
"""

from __future__ import annotations

import html
import ipaddress
import json
import os
import re
import ssl
import warnings
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .._utils.text import visible
from ..errors import ConfigError

DEFAULT_ADDRESS = "http://127.0.0.1:4646"

MIN_SECRET = 6
"""Characters that a text must have to be cut out of answers."""

_SCRUBBED = "(secret)"
_SMALL_BODY = 64 << 10
"""Bytes of an answer in which upper and lower case are searched, which takes a hundred times as long."""

_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False", ""}


class Secret:
    """A string that is never shown and cannot be pickled. Only the code that sends it calls `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(***)" if self._value else "Secret()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(Secret)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Nomad token cannot be pickled. Make a new Client from NOMAD_TOKEN where you need it"
        )


class Scrubber:
    """Cuts a client's own secrets out of what a server or a proxy sends.

    A peer may repeat a request: a debug page, or an error page of a proxy. What is kept of an answer must
    not hold the token then, in whatever spelling it came back.

    Parameters
    ----------
    *secrets : Secret
        Texts shorter than `MIN_SECRET` are left alone: cutting them out could hit any word.
    """

    def __init__(self, *secrets: Secret) -> None:
        texts = {part for secret in secrets for part in _parts(secret.reveal()) if len(part) >= MIN_SECRET}
        plain = {form for text in texts for form in _spellings(text)}
        encoded = {form for text in texts for form in _encodings(text)}
        self._pattern = _any_of(plain | encoded)
        self._body_forms = {False: sorted(plain | encoded), True: sorted(plain)}
        self._body_patterns = {
            base64: re.compile(_any_of(forms).pattern.encode(), re.IGNORECASE)
            for base64, forms in self._body_forms.items()
        }

    def text(self, value: object) -> str:
        """Return text without the secrets."""
        return self._pattern.sub(_SCRUBBED, str(value))

    def visible(self, value: object) -> str:
        """Return text without the secrets, on one line, short and harmless to print."""
        return visible(self.text(value))

    def body(self, data: bytes, *, base64: bool = False) -> bytes:
        """Return an answer without the secrets. In a large one, only exact spellings are found.

        Parameters
        ----------
        base64 : bool
            The answer holds data in base64, such as a log: cutting out of that would make it unreadable.
        """
        if len(data) <= _SMALL_BODY:
            return self._body_patterns[base64].sub(_SCRUBBED.encode(), data)
        for form in self._body_forms[base64]:
            if form.encode() in data:
                data = data.replace(form.encode(), _SCRUBBED.encode())
        return data


def _any_of(forms: Collection[str]) -> re.Pattern[str]:
    """Return a pattern of texts in any case, the longest first, so that no rest of one stays."""
    ordered = sorted(forms, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or "(?!)", re.IGNORECASE)


def _parts(secret: str) -> set[str]:
    """Return a secret, and the password of one that is user:password."""
    return {secret, secret.partition(":")[2]}


def _spellings(text: str) -> set[str]:
    """Return the ways in which a peer may write a text that it was sent."""
    return {text, quote(text, safe=""), html.escape(text), json.dumps(text)[1:-1]}


def _encodings(text: str) -> set[str]:
    """Return a text in base64, as HTTP sends it."""
    return {b64encode(text.encode()).decode(), urlsafe_b64encode(text.encode()).decode()}


@dataclass(frozen=True)
class Config:
    """How to reach one cluster. The repr shows no secrets."""

    address: str
    base_url: str
    unix_socket: str | None
    token: Secret
    namespace: str | None
    region: str | None
    http_auth: Secret
    ca_cert: str | None
    ca_path: str | None
    client_cert: str | None
    client_key: str | None
    tls_server_name: str | None
    verify: bool = True

    @cached_property
    def scrub(self) -> Scrubber:
        """Cuts this client's secrets out of what comes from outside."""
        return Scrubber(self.token, self.http_auth)

    @classmethod
    def load(
        cls,
        address: str | None = None,
        *,
        token: str | None = None,
        namespace: str | None = None,
        region: str | None = None,
        ca_cert: str | os.PathLike[str] | None = None,
        ca_path: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        tls_server_name: str | None = None,
        verify: bool | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Config:
        """Resolve every setting: the argument, else the Nomad CLI's variable, else the default.

        Raises
        ------
        ConfigError
            A value is unusable. The message names the argument or variable.
        """
        env = _Environment(os.environ if environ is None else environ)
        address = env.text(address, "NOMAD_ADDR") or env.text(None, "NOMAD_UNIX_ADDR") or DEFAULT_ADDRESS
        base_url, unix_socket = _parse_address(address)
        skip_verify = env.flag("NOMAD_SKIP_VERIFY")
        config = cls(
            address=address,
            base_url=base_url,
            unix_socket=unix_socket,
            token=Secret(_header_text(env.text(token, "NOMAD_TOKEN"), "token (NOMAD_TOKEN)")),
            namespace=env.text(namespace, "NOMAD_NAMESPACE") or None,
            region=env.text(region, "NOMAD_REGION") or None,
            http_auth=Secret(_http_auth(env.text(None, "NOMAD_HTTP_AUTH"))),
            ca_cert=env.path(ca_cert, "NOMAD_CACERT", "ca_cert"),
            ca_path=env.path(ca_path, "NOMAD_CAPATH", "ca_path"),
            client_cert=env.path(client_cert, "NOMAD_CLIENT_CERT", "client_cert"),
            client_key=env.path(client_key, "NOMAD_CLIENT_KEY", "client_key"),
            tls_server_name=env.text(tls_server_name, "NOMAD_TLS_SERVER_NAME") or None,
            verify=(not skip_verify) if verify is None else verify,
        )
        config._check_and_warn()
        return config

    def _check_and_warn(self) -> None:
        if bool(self.client_cert) != bool(self.client_key):
            missing = (
                "client_key (NOMAD_CLIENT_KEY)" if self.client_cert else "client_cert (NOMAD_CLIENT_CERT)"
            )
            raise ConfigError(f"client_cert and client_key must be set together; {missing} is missing")
        if not self.verify:
            warnings.warn(
                f"TLS certificates of {self.address} are not verified: anyone on the path can read the "
                "token. Set ca_cert (NOMAD_CACERT) instead of NOMAD_SKIP_VERIFY",
                stacklevel=4,
            )
        if (
            self.token
            and self.base_url.startswith("http://")
            and not self.unix_socket
            and not self._is_loopback()
        ):
            warnings.warn(f"the token is sent to {self.address} unencrypted; use https://", stacklevel=4)

    def _is_loopback(self) -> bool:
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS settings: version 1.2 or later, certificates verified."""
        try:
            authorities = self._authorities()
            context = ssl.create_default_context(cafile=authorities[0] if authorities else None)
            for file in authorities[1:]:
                context.load_verify_locations(file)
            if self.client_cert and self.client_key:
                context.load_cert_chain(self.client_cert, self.client_key)
        except (ssl.SSLError, OSError) as error:
            files = [*self._authorities(), self.client_cert, self.client_key]
            listed = ", ".join(file for file in files if file)
            raise ConfigError(f"cannot use the TLS files {listed}: {error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _authorities(self) -> list[str]:
        """Return the files with certificate authorities; none to use those of the system.

        Raises
        ------
        ConfigError
            The folder holds no file.
        """
        files = [self.ca_cert] if self.ca_cert else []
        if self.ca_path:
            # Every file, as Nomad's own tools do. OpenSSL's `capath` takes only names that are hashes.
            inside = sorted(str(path) for path in Path(self.ca_path).iterdir() if path.is_file())
            if not inside:
                raise ConfigError(f"ca_path (NOMAD_CAPATH) must be a folder of PEM files, got {self.ca_path}")
            files += inside
        return files


class _Environment:
    """Reads settings from arguments and environment variables."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, argument: str | None, name: str) -> str:
        value = self._environ.get(name, "") if argument is None else argument
        if not isinstance(value, str):
            raise ConfigError(f"{name} must be a string, got {type(value).__name__}")
        return value.strip()

    def flag(self, name: str) -> bool:
        value = self._environ.get(name, "").strip()
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise ConfigError(f"{name} must be 1 or 0, got {value!r}")

    def path(self, argument: str | os.PathLike[str] | None, name: str, label: str) -> str | None:
        value = self._environ.get(name, "").strip() if argument is None else os.fspath(argument)
        if not value:
            return None
        if not Path(value).exists():
            raise ConfigError(f"{label} ({name}) must be an existing path, got {value}")
        return value


def _header_text(value: str, setting: str) -> str:
    """Check that a secret can be sent in a header. The message does not show it."""
    if not value.isascii() or not value.isprintable():
        raise ConfigError(f"{setting} must be printable ASCII. Check that it was copied completely")
    return value


def _http_auth(value: str) -> str:
    if value and ":" not in value:
        value += ":"
    return _header_text(value, "HTTP user and password (NOMAD_HTTP_AUTH)")


def _parse_address(address: str) -> tuple[str, str | None]:
    """Return the base URL and, for ``unix://``, the path of the socket."""
    try:
        parts = urlsplit(_plain(address))
        port: Any = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ConfigError(f"the address {address!r} (NOMAD_ADDR) is not a valid URL: {error}") from None
    if parts.scheme == "unix":
        path = unquote(parts.netloc + parts.path)
        if not path:
            raise ConfigError(f"the address (NOMAD_ADDR) must be unix:///path/to/socket, got {address!r}")
        return "http://localhost", path
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            "the address (NOMAD_ADDR) must not contain a user or password. Set NOMAD_HTTP_AUTH=user:password"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "the address (NOMAD_ADDR) must be http://host:port, https://host:port or unix:///path, "
            f"got {address!r}"
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"the address (NOMAD_ADDR) must not contain ? or #, got {address!r}")
    return _base_url(parts, port), None


def _plain(address: str) -> str:
    if not address.isprintable():
        raise ValueError("it contains unprintable characters")
    if any(character.isspace() for character in address) and not address.startswith("unix:"):
        raise ValueError("it contains a space")
    return address


def _base_url(parts: SplitResult, port: int | None) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
