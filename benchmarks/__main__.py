"""Entry point of `python -m benchmarks`."""

import sys

from benchmarks.cli import run_program

if __name__ == "__main__":
    sys.exit(run_program())
