#!/usr/bin/env bash
# Installs the requirements into .venv, then runs the linter, the type checker and the tests.
# Arguments are passed to pytest: bash scripts/run_tests.sh -k corpus; in one process: -n 0; in random
# order: --randomly-seed N. The default is one process per core, at most four.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment test
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
.venv/bin/python -m mypy
order="-p no:randomly"
case " $* " in *" --randomly-seed"*) order="" ;; esac
# shellcheck disable=SC2086  # empty, or two words
exec .venv/bin/python -m pytest $order --numprocesses auto --maxprocesses 4 --dist worksteal "$@"
