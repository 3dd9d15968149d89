"""``python -m kdignite``."""

import sys

from kdignite.cli import main

# spawned workers import this module again and must not start a second command
if __name__ == "__main__":
    sys.exit(main())
