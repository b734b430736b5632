#!/usr/bin/env bash
# Runs the tests, a process a core (four at most), installing what they need into .venv first. Arguments go to pytest:
# bash scripts/run_tests.sh -k corpus; in one process: -n 0; in a random order: --randomly-seed N
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment requirements.txt tests/requirements.txt
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
order="-p no:randomly"
case " $* " in *" --randomly-seed"*) order="" ;; esac
# shellcheck disable=SC2086  # nothing, or two words
exec .venv/bin/python -m pytest $order --numprocesses auto --maxprocesses 4 --dist worksteal "$@"
