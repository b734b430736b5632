#!/usr/bin/env bash
# Starts the web page on http://127.0.0.1:7860, and first installs what it needs into .venv.
# REALFAKE_MODEL names another detector (Hub id or folder); GRADIO_SERVER_NAME and GRADIO_SERVER_PORT set
# another address. realfake/space/README.md lists all variables.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment
exec .venv/bin/python app.py "$@"
