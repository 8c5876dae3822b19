"""The command line: parsing and printing only. Each command has a module of its name."""

from __future__ import annotations

import sys
import warnings

import typer

from ..errors import AllocframeError, ConfigError
from . import archive, demo, fetch, record, report
from ._app import app

__all__ = ["archive", "demo", "fetch", "record", "report", "run"]


def run() -> int:
    """Run one command; 0 is done, 1 is a failure told in one line, 2 is a wrong command line."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.Exit as done:
        return done.exit_code
    except ConfigError as error:
        return _told(error, 2)
    except (AllocframeError, OSError) as error:
        return _told(error, 1)
    except KeyboardInterrupt:
        return _told("interrupted; nothing was written", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _told(f"{error.format_message()} (see: allocframe --help)", 2)


def _told(error: object, code: int) -> int:
    print(f"allocframe: {' '.join(str(error).split())}", file=sys.stderr)
    return code
