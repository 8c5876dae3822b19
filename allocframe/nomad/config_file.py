"""The TOML file that lists several clusters, and names for clusters that have none."""

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
_SETTINGS = (*_TEXTS, "token_env", "token_file", *_FILES, "verify")


def config_for_address(address: str) -> Config:
    """Return the settings of a cluster of which only the address is given.

    Environment variables are not read: they describe another cluster.
    """
    if not isinstance(address, str) or not address.strip():
        raise ConfigError(f"a cluster must be a Client or an address, got {visible(repr(address))}")
    return Config.load(address, environ={})


def read_clusters(path: str | os.PathLike[str]) -> dict[str, Config]:
    """Return the clusters in a TOML file, by name.

    Raises
    ------
    ConfigError
        The file is unusable. The message names the cluster and the setting.
    """
    file = Path(path)
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the clusters file {file}: {error}") from None
    if not tables:
        raise ConfigError(f"{file} must contain at least one cluster: a table such as [eu] with its address")
    return {check_name(name): _load_cluster(file, name, settings) for name, settings in tables.items()}


def list_sources(path: str | os.PathLike[str]) -> list[str]:
    """Return a line for each cluster of a file that `read_clusters` can read, if it names variables or files.

    Such a file decides which secrets go to which address, so it must be trusted like a program.
    """
    file = Path(path)
    lines = []
    for name, settings in tomllib.loads(file.read_text(encoding="utf-8")).items():
        named = [f"${settings['token_env']}"] if settings.get("token_env") else []
        named += [str(file.parent / settings[key]) for key in ("token_file", *_FILES) if settings.get(key)]
        if named:
            lines.append(f"{name} at {settings.get('address')} reads {', '.join(named)}")
    return [visible(line) for line in lines]


def _load_cluster(file: Path, name: str, settings: Any) -> Config:
    table = f"{file}: [{visible(name)}]"
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: {visible(name)} must be inside a cluster's table, such as [eu]")
    if "token" in settings:
        raise ConfigError(
            f"{table}: a token must not be in this file. Name the variable (token_env) or the file "
            "(token_file) that holds it"
        )
    unknown = sorted(set(settings) - set(_SETTINGS))
    if unknown:
        raise ConfigError(
            f"{table}: unknown setting {visible(unknown[0])!r}. Known settings: {', '.join(_SETTINGS)}"
        )
    for key, value in settings.items():
        if not isinstance(value, bool if key == "verify" else str):
            expected = "true or false" if key == "verify" else "a string"
            raise ConfigError(f"{table}: {key} must be {expected}, got {value!r}")
    if not settings.get("address", "").strip():
        raise ConfigError(f"{table}: the address is missing")
    files = {key: str(file.parent / settings[key]) for key in _FILES if settings.get(key)}
    texts = {key: settings.get(key) for key in _TEXTS}
    try:
        return Config.load(
            **texts, token=_token(file, settings), **files, verify=settings.get("verify"), environ={}
        )
    except ConfigError as error:
        raise ConfigError(f"{table}: {error}") from None


def _token(file: Path, settings: Mapping[str, str]) -> str:
    variable, token_file = settings.get("token_env"), settings.get("token_file")
    if variable is not None and token_file is not None:
        raise ConfigError("token_env and token_file must not be combined")
    if variable is not None:
        if not os.environ.get(variable, "").strip():
            raise ConfigError(f"token_env must name a variable that is set, got {visible(variable)}")
        return os.environ[variable]
    if token_file is None:
        return ""
    try:
        token = (file.parent / token_file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read token_file: {error}") from None
    if not token:
        raise ConfigError(f"token_file must hold a token, but {visible(token_file)} is empty")
    return token


def cluster_names(configs: Sequence[Config]) -> list[str]:
    """Return names for clusters that have none: their regions, else hosts, else hosts with ports.

    Raises
    ------
    ConfigError
        None of these is different for every cluster.
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
        "two clusters have the same region and host. Give each cluster a name, as in {'eu': ..., 'us': ...}"
    )
