#!/usr/bin/env bash
# Runs the linter, the type checker and the tests, and first installs what they need into .venv.
# Arguments go to pytest: bash scripts/run_tests.sh -k corpus; in one process: -n 0; in random order:
# --randomly-seed N. By default there is a process per core, four at most.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment test
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
.venv/bin/python -m mypy
order="-p no:randomly"
case " $* " in *" --randomly-seed"*) order="" ;; esac
# shellcheck disable=SC2086  # nothing, or two words
exec .venv/bin/python -m pytest $order --numprocesses auto --maxprocesses 4 --dist worksteal "$@"
