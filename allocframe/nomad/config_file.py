"""The file that says where several clusters are and how to speak to each, and the names of those that have none."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .._utils.text import visible
from .._utils.validate import check_name
from ..errors import ConfigError
from .config import Config

_TEXTS = ("address", "region", "namespace", "tls_server_name")
_FILES = ("ca_cert", "ca_path", "client_cert", "client_key")
_KNOWN = (*_TEXTS, "token_env", "token_file", *_FILES, "verify")


def config_for_address(address: str) -> Config:
    """Return how a cluster is reached of which only the address is known: no variable, which would be another one's, is read."""
    if not isinstance(address, str) or not address.strip():
        raise ConfigError(f"a cluster is a Client or an address, not {visible(repr(address))}")
    return Config.load(address, environ={})


def read_clusters(path: str | os.PathLike[str]) -> dict[str, Config]:
    """Return the clusters that a TOML file names.

    Raises
    ------
    ConfigError
        The file cannot be used; says what is wrong in which cluster.
    """
    file = Path(path)
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file of clusters {file} cannot be read: {error}") from None
    if not told:
        raise ConfigError(f"{file} names no cluster; each is a table, such as [eu], with its address")
    return {check_name(name): _one(file, name, settings) for name, settings in told.items()}


def _one(file: Path, name: str, settings: Any) -> Config:
    where = f"{file}: [{visible(name)}]"
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{file}: {visible(name)} stands in no cluster; begin each with its name, such as [eu]"
        )
    if "token" in settings:
        raise ConfigError(
            f"{where}: a token does not belong into this file; name the variable (token_env) or the file "
            "(token_file) that holds it"
        )
    unknown = sorted(set(settings) - set(_KNOWN))
    if unknown:
        raise ConfigError(
            f"{where}: there is no setting {visible(unknown[0])!r}; there are: {', '.join(_KNOWN)}"
        )
    for key, value in settings.items():
        if not isinstance(value, bool if key == "verify" else str):
            raise ConfigError(
                f"{where}: {key} must be {'true or false' if key == 'verify' else 'a text'}, not {value!r}"
            )
    if not settings.get("address", "").strip():
        raise ConfigError(f"{where}: the address is missing")
    files = {key: str(file.parent / settings[key]) for key in _FILES if settings.get(key)}
    texts = {key: settings.get(key) for key in _TEXTS}
    try:
        return Config.load(
            **texts, token=_token(file, settings), **files, verify=settings.get("verify"), environ={}
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _token(file: Path, settings: Mapping[str, str]) -> str:
    variable, held = settings.get("token_env"), settings.get("token_file")
    if variable is not None and held is not None:
        raise ConfigError("give token_env or token_file, not both")
    if variable is not None:
        if not os.environ.get(variable, "").strip():
            raise ConfigError(f"token_env names the variable {visible(variable)}, which is not set")
        return os.environ[variable]
    if held is None:
        return ""
    try:
        token = (file.parent / held).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"token_file cannot be read: {error}") from None
    if not token:
        raise ConfigError(f"token_file names {visible(held)}, which is empty")
    return token


def cluster_names(configs: Sequence[Config]) -> list[str]:
    """Return names for clusters that were given none: their regions, else hosts, else hosts with ports.

    Raises
    ------
    ConfigError
        None of these tells them apart.
    """
    hosts = [urlsplit(config.base_url) if not config.unix_socket else None for config in configs]
    for names in (
        [config.region for config in configs],
        [host and host.hostname for host in hosts],
        [host and host.netloc for host in hosts],
    ):
        if all(names) and len(set(names)) == len(names):
            return [str(name) for name in names]
    raise ConfigError(
        "neither regions nor hosts tell these clusters apart: give them names, as in {'eu': ..., 'us': ...}"
    )
