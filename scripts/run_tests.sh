#!/usr/bin/env bash
# Runs the tests in random order, a process a core (four at most), installing what they need into .venv first. Arguments go to
# pytest: bash scripts/run_tests.sh -k corpus; in one process: -n 0; in the order of an earlier run: --randomly-seed N
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment requirements.txt tests/requirements.txt
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
exec .venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal "$@"
