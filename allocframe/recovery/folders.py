"""A server's data folder: copied first, then printed by the nomad program. It never opens the live files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .._utils.text import visible
from ..errors import ConfigError, DecodeError

_PLACES = ("server/raft", "raft", ".")
"""Where the Raft files are in a data folder, in a server folder, or in themselves."""

_MESSAGE = 500
"""Characters of the program's error that are shown."""


def find_raft_folder(folder: Path) -> Path | None:
    """Return the folder that holds the Raft files of a server, None if there are none."""
    for place in _PLACES:
        raft = folder / place
        if (raft / "raft.db").is_file() or (raft / "wal").is_dir():
            return raft
    return None


def find_program(nomad: str | os.PathLike[str] | None) -> str:
    """Return the path of the nomad program.

    Raises
    ------
    ConfigError
        There is none.
    """
    found = shutil.which(os.fspath(nomad) if nomad is not None else "nomad")
    if found is None:
        where = "on PATH" if nomad is None else f"at {nomad}"
        raise ConfigError(
            f"a server's folder or snapshot is read by the nomad program, of its version or newer, and there "
            f"is none {where}. Give nomad=, or print it elsewhere, with `nomad operator raft logs COPY > "
            "logs.ndjson` or `nomad operator snapshot state FILE > state.json`, and give that file"
        )
    return found


@contextlib.contextmanager
def copied(raft: Path) -> Iterator[Path]:
    """Yield a copy of a server's Raft files, laid out as its data folder.

    A copy of a running server's files reads well; the files themselves must not be opened.

    Raises
    ------
    ConfigError
        They may not be read, or there is no room for a copy.
    """
    target = Path(tempfile.mkdtemp(prefix="allocframe-"))
    try:
        try:
            size = sum(file.stat().st_blocks * 512 for file in raft.rglob("*") if file.is_file())
            free = shutil.disk_usage(target).free
            if size > free:
                raise ConfigError(
                    f"a copy of {raft} needs {size:,} bytes, and {target.parent} has {free:,} free. Set "
                    "TMPDIR to a larger folder"
                )
            _copy_sparse(raft, target / "server" / "raft")
        except PermissionError as error:
            raise ConfigError(
                f"{error.filename} may not be read. Run this as the user that runs the server, or as root"
            ) from None
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy a folder. Zeros are not written: segments of the log are laid out long before they are full."""
    target.mkdir(parents=True)
    for item in source.iterdir():
        if item.is_dir():
            _copy_sparse(item, target / item.name)
        elif item.is_file():
            with item.open("rb") as reading, (target / item.name).open("wb") as writing:
                while block := reading.read(1 << 20):
                    if block.count(0) == len(block):
                        writing.seek(len(block), os.SEEK_CUR)
                    else:
                        writing.write(block)
                writing.truncate()


@contextlib.contextmanager
def printed_log(program: str, folder: Path) -> Iterator[IO[bytes]]:
    """Yield what the program prints of the log in a copied folder, as it comes.

    Raises
    ------
    DecodeError
        The program failed; the message is its own.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: S603 - the user's own nomad program
            [program, "operator", "raft", "logs", str(folder)], stdout=subprocess.PIPE, stderr=errors
        )
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            with contextlib.suppress(DecodeError):
                yield process.stdout
                if process.wait() == 0:
                    return
            # What it printed could not be read, or it failed: its own words say more.
            if process.wait() != 0:
                errors.seek(0)
                raise DecodeError(_reason(program, "raft logs", errors.read()))
            raise DecodeError(f"`{program} operator raft logs` printed no entry of a log")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def print_state(program: str, path: Path, command: str = "raft state") -> Any:
    """Return the state in a copied folder, or in a snapshot's file, as the program prints it.

    Raises
    ------
    DecodeError
        The program failed, or printed no JSON.
    """
    done = subprocess.run(  # noqa: S603 - the user's own nomad program
        [program, "operator", *command.split(), str(path)], capture_output=True, check=False
    )
    start = done.stdout.find(b"{")
    try:
        if done.returncode != 0 or start < 0:
            raise ValueError
        return json.loads(done.stdout[start:])
    except ValueError:
        raise DecodeError(_reason(program, command, done.stderr or done.stdout)) from None


def is_snapshot(file: Path) -> bool:
    """Return whether a file is what ``nomad operator snapshot save`` writes: its first members say so."""
    with contextlib.suppress(tarfile.TarError, OSError, EOFError, zlib.error):
        with tarfile.open(file, "r:gz") as archive:
            first = [member.name for member, _ in zip(archive, range(3), strict=False)]
        return "state.bin" in first
    return False


def _reason(program: str, command: str, errors: bytes) -> str:
    text = " ".join(errors.decode("utf-8", "replace").split())[-_MESSAGE:]
    return f"`{program} operator {command}` failed: {visible(text) or 'it printed nothing'}"
