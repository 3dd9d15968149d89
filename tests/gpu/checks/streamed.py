"""The command line, with images that are decoded by workers, however few there are."""

import sys

from kdignite.cli import main
from kdignite.data import custom, folders

if __name__ == "__main__":
    folders.IN_MEMORY_BYTES = custom.IN_MEMORY_BYTES = 0  # type: ignore[attr-defined]
    sys.exit(main(sys.argv[1:]))
