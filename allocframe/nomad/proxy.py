"""Which proxy the environment asks for, by the rules of Go and so of Nomad's own tools. No I/O."""

from __future__ import annotations

import ipaddress
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from .._utils.text import visible
from ..errors import ConfigError

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, repr=False)
class Proxy:
    """A proxy from the environment. It has no repr of its values, because they may hold a password."""

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"<Proxy {self.scheme}://{visible(self.host)}:{self.port}>"

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks5")

    @property
    def authorization(self) -> str:
        """The value of a Proxy-Authorization header; empty if the proxy needs none."""
        if not self.user:
            return ""
        return "Basic " + b64encode(f"{self.user}:{self.password}".encode()).decode()


def proxy_for(base_url: str, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy for a URL, or None. This machine itself is never reached through one.

    Raises
    ------
    ConfigError
        The proxy cannot be used. The message does not show its URL, which may hold a password.
    """
    env = os.environ if environ is None else environ
    parts = urlsplit(base_url)
    name = f"{parts.scheme.upper()}_PROXY"
    # Who calls a CGI program sets HTTP_PROXY by sending a header "Proxy", so Go ignores it there.
    upper = "" if name == "HTTP_PROXY" and env.get("REQUEST_METHOD") else env.get(name, "")
    text = (upper or env.get(name.lower(), "")).strip()
    if not text:
        return None
    no_proxy = env.get("NO_PROXY", "") or env.get("no_proxy", "")
    if not _is_proxied(parts.hostname or "", parts.port or _PORTS[parts.scheme], no_proxy):
        return None
    return _parse(text, name)


def _is_proxied(host: str, port: int, no_proxy: str) -> bool:
    host = host.lower()
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    return not any(_matches(entry.strip().lower(), host, address, port) for entry in no_proxy.split(","))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> _Address | None:
    """Return an IP address, or None if the text is none. An IPv4 address in IPv6 form is the IPv4 one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _matches(entry: str, host: str, address: _Address | None, port: int) -> bool:
    """Return whether an entry of NO_PROXY names the host.

    An entry is ``*``, an address, a network (10.0.0.0/8), or a domain. A domain without a leading dot
    includes the host of that name; any but a network may end in a port.
    """
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, entry_port = _split_port(entry)
    if entry_port and entry_port != str(port):
        return False
    if (entry_address := _address(name)) is not None:
        return entry_address == address
    if name.startswith("*."):
        name = name[1:]
    if not name:
        return False
    return host.endswith(name if name.startswith(".") else f".{name}") or host == name


def _split_port(entry: str) -> tuple[str, str]:
    """Return the host and the port of an entry; the port is empty if there is none."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    host, colon, port = entry.rpartition(":")
    # More than one colon: an IPv6 address without a port.
    return (host, port) if colon and ":" not in host else (entry, "")


def _parse(text: str, name: str) -> Proxy:
    """Return the proxy that a variable names."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port, host = parts.port, parts.hostname
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in _PORTS:
        raise ConfigError(
            f"{name} must be http://host:port, https://host:port or socks5://host:port. Its value is not "
            "shown, because it may hold a password"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if max(len(user.encode()), len(password.encode())) > 255:
        raise ConfigError(f"the user and the password in {name} must have at most 255 bytes each")
    return Proxy(parts.scheme, host, port or _PORTS[parts.scheme], user, password)
