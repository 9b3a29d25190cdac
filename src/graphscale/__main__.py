"""``python -m graphscale``."""

import sys

from graphscale.cli import main

if __name__ == "__main__":
    sys.exit(main())
