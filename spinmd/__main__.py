"""``python -m spinmd``: the same as the command ``spinmd``."""

import sys

from spinmd.cli import main

if __name__ == "__main__":
    sys.exit(main())
