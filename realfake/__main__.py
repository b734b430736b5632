"""`python -m realfake`: the same as the `realfake` command."""

import sys

from realfake.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
