"""The program: ``graphscale`` and ``python -m graphscale``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. Ctrl-C is met here, so that one during the imports is met too."""
    try:
        from graphscale import launch

        if (code := launch.verdict()) is not None:  # a rank, started again although it had ended by itself
            return code
        from graphscale import cli

        return cli.main(argv)
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted before anything was saved since the last checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
