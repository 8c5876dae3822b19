"""The command line: parsing and printing only. Each command has a module of its own name.

Commands import statistics, diagnosis and reports when they run: `record` and `fetch` begin in half the time.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer

from ..errors import AllocframeError, ConfigError
from . import archive, demo, diagnose, fetch, record, recover, report
from ._app import app

__all__ = ["archive", "demo", "diagnose", "fetch", "record", "recover", "report", "run"]

INTERRUPTED = 130
"""The exit code after Ctrl-C. Versions of typer return it, raise Abort, or leave the interrupt alone."""


def run() -> int:
    """Run one command.

    Returns
    -------
    int
        The exit code: 0 for success, 1 for a failure, 2 for a wrong command line, 130 after Ctrl-C. Errors
        are one line on stderr.
    """
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        code = app(standalone_mode=False, prog_name="allocframe")
        if code == INTERRUPTED:
            return _interrupted()
        return code if isinstance(code, int) else 0
    except typer.Exit as end:
        return end.exit_code
    except ConfigError as error:
        return _fail(error, 2)
    except (AllocframeError, OSError) as error:
        return _fail(error, 1)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:
        # typer's usage errors have no public class that all its versions share, only this method.
        if not hasattr(error, "format_message"):
            raise
        return _fail(_explain_usage(error), 2)


def _interrupted() -> int:
    return _fail("interrupted: only what was reported as saved or written is whole", INTERRUPTED)


def _explain_usage(error: Any) -> str:
    """Return what is wrong with a command line, and where the right one is described."""
    text, context = error.format_message(), getattr(error, "ctx", None)
    if context is None:
        return f"{text} (see: allocframe --help)"
    takes_from = any("--from" in option.opts for option in context.command.params)
    if "extra argument" in text and takes_from:
        text += ". A file of evidence is given as --from FILE"
    return f"{text} (see: {context.command_path} --help)"


def _fail(error: object, code: int) -> int:
    """Print an error as one line and return the exit code."""
    print(f"allocframe: {' '.join(str(error).split())}", file=sys.stderr)
    return code
