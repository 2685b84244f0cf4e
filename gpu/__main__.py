import sys

from gpu.cli import main

sys.exit(main())
