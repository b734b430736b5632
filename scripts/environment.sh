# Sourced by the other scripts. Creates a virtual environment in .venv and installs the package into it, if
# it is missing or outdated.
# usage: . scripts/environment.sh; prepare_environment [EXTRA]
# REALFAKE_CONSTRAINTS: file of exact versions, relative to the repository (default: none, only ranges).

prepare_environment() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || return 1
    local python candidate stamp extra=${1:-}
    if [ ! -x .venv/bin/python ]; then
        python=""
        for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3 python; do
            if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
        if [ -z "$python" ]; then
            echo "error: realfake needs Python 3.11 to 3.13; found: $(python3 --version 2>&1 || echo none). Install one, or name it: PYTHON=/path/to/python3.11 bash $0" >&2
            return 2
        fi
        echo "Creating .venv with $("$python" --version)" >&2
        "$python" -m venv .venv || return 1
    fi
    # The stamp is named after the requirements, so that a second run installs nothing.
    stamp=.venv/realfake-$(cat pyproject.toml requirements.txt ${REALFAKE_CONSTRAINTS:+"$REALFAKE_CONSTRAINTS"} | .venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:16])')-$extra
    if [ ! -f "$stamp" ]; then
        echo "Installing the package and its requirements (once; a few minutes)" >&2
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" \
            ${REALFAKE_CONSTRAINTS:+-c "$REALFAKE_CONSTRAINTS"} || return 1
        touch "$stamp"
    fi
}
