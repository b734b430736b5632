#!/usr/bin/env bash
# Mutation test with mutmut: changes the code that computes figures, one place at a time, and counts the
# changes that the tests detect:
#   .venv/bin/python -m pip install "mutmut>=3.8,<4"
#   bash scripts/mutation.sh verdicts     # or calibration, metrics, splits; several; default: all
# Works on copies in mutants/. The same command continues an interrupted run. The exit status is 1 if the
# tests detect fewer than 85 % of the changes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
"$python" -c 'import mutmut' 2>/dev/null || {
    echo 'error: mutmut is missing; run: .venv/bin/python -m pip install "mutmut>=3.8,<4"' >&2
    exit 2
}
export OMP_NUM_THREADS=1
status=0
[ $# -gt 0 ] || set -- verdicts calibration metrics splits
for part in "$@"; do
    folder=realfake/statistics
    case $part in
        verdicts) code="$folder/verdicts.py" tests="tests/test_conformal.py" ;;
        calibration) code="$folder/calibration.py" tests="tests/test_calibration.py" ;;
        metrics)
            code="$folder/metrics.py $folder/summary.py"
            tests="tests/test_metrics.py tests/test_noise_floor.py"
            ;;
        splits) code="realfake/corpus/splits.py" tests="tests/test_splits.py" ;;
        *)
            echo "error: there is no part '$part'; choose from verdicts, calibration, metrics and splits" >&2
            exit 2
            ;;
    esac
    mkdir -p "mutants/$part"
    git ls-files -z -- realfake tests scripts requirements.txt README.md LICENSE pyproject.toml |
        xargs -0 cp -p --parents -t "mutants/$part"
    listed() { printf '"%s", ' "$@"; }
    cat >>"mutants/$part/pyproject.toml" <<SETTINGS

[tool.mutmut]
source_paths = ["realfake"]
only_mutate = [$(listed $code)]
pytest_add_cli_args = ["-p", "no:randomly"]
pytest_add_cli_args_test_selection = [$(listed $tests)]
also_copy = ["scripts", "requirements.txt"]
SETTINGS
    (cd "mutants/$part" && "$python" -m mutmut run --max-children "${REALFAKE_MUTATION_PROCESSES:-2}" >mutmut.log 2>&1) || {
        tail -c 2000 "mutants/$part/mutmut.log" >&2
        exit 2
    }
    # Survivors are listed; `mutmut show NAME` in mutants/PART prints one.
    (cd "mutants/$part" && "$python" -m mutmut results --all true) | awk -v part="$part" '
        / survived$| no tests$/ { print; left++ }
        / killed$| timeout$| segfault$/ { detected++ }
        END {
            if (!(detected + left)) { print part ": nothing was changed"; exit 1 }
            printf "%s: %d of %d changes detected, %.1f %%\n", part, detected, detected + left, 100 * detected / (detected + left)
            exit detected < 0.85 * (detected + left)
        }' || status=1
done
exit $status
