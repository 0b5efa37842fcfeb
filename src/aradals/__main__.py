"""`python -m aradals` is the command line."""

import sys

from aradals.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
