"""Entry point of `python -m benchmarks`."""

import signal
import sys

from benchmarks.cli import main

if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # a reader that closes its pipe, as head does, is no error
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
