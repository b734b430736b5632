#!/usr/bin/env bash
# Installs the requirements and OpenVINO into .venv, then starts the web page on http://127.0.0.1:7860.
# REALFAKE_MODEL sets another detector (Hub id or folder), GRADIO_SERVER_NAME and GRADIO_SERVER_PORT another
# address. realfake/space/README.md lists all variables.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment openvino
exec .venv/bin/python app.py "$@"
