"""`python -m puresift`, the same as the command `puresift`."""

import sys

from puresift.cli import main

if __name__ == "__main__":
    sys.exit(main())
