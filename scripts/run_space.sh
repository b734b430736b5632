#!/usr/bin/env bash
# Starts the Space on http://127.0.0.1:7860, installing what it needs into .venv first.
# REALFAKE_MODEL names another checkpoint (Hub id or folder); GRADIO_SERVER_NAME and GRADIO_SERVER_PORT another address.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment requirements.txt
exec .venv/bin/python app.py "$@"
