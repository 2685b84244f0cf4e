"""Entry point of `python -m sass`."""

import sys

from sass.cli import main

if __name__ == "__main__":
    sys.exit(main())
