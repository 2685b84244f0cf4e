"""Entry point of `python -m accuracy`."""

import sys

from accuracy.cli import main

if __name__ == "__main__":
    sys.exit(main())
