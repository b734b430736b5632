"""The web page, as a Space or on this machine, see `realfake/space/README.md`."""

import sys

from realfake.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["space", "run"]))
