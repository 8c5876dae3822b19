"""``python -m allocframe`` and the ``allocframe`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Without its extra, say what to install."""
    try:
        from .cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("allocframe"):
            raise
        sys.exit("allocframe: the command line needs typer: pip install 'allocframe[cli]'")
    except KeyboardInterrupt:  # nothing has begun
        print("allocframe: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(run())


if __name__ == "__main__":
    main()
