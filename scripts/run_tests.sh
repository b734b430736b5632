#!/usr/bin/env bash
# Runs the tests, installing what they need into .venv first. Arguments go to pytest: bash scripts/run_tests.sh -k corpus
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment requirements.txt tests/requirements.txt
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
exec .venv/bin/python -m pytest "$@"
