#!/usr/bin/env bash
# Changes one thing at a time in the code that figures rest on, and counts the changes that the tests notice, with mutmut:
#   .venv/bin/python -m pip install "mutmut>=3.8,<4"
#   bash scripts/mutation.sh conformal        # or metrics, calibration, splits; several, or all of them without a word
# Works on copies in mutants/, never on the checkout; given again, it continues. Ends with 1 where fewer than 85 % are noticed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
"$python" -c 'import mutmut' 2>/dev/null || {
    echo 'mutmut is missing: .venv/bin/python -m pip install "mutmut>=3.8,<4"' >&2
    exit 2
}
export OMP_NUM_THREADS=1
status=0
[ $# -gt 0 ] || set -- conformal calibration metrics splits
for part in "$@"; do
    of=realfake/statistics
    case $part in
        conformal) code="$of/conformal.py" tests="tests/test_conformal.py" ;;
        calibration)
            code="$of/calibration.py $of/calibration_comparison.py"
            tests="tests/test_calibration.py tests/test_calibration_comparison.py"
            ;;
        metrics)
            code="$of/metrics.py $of/decision_metrics.py $of/ranking_metrics.py $of/probability_metrics.py"
            code="$code $of/noise_floor.py $of/bootstrap.py $of/margins.py"
            tests="tests/test_metrics.py tests/test_noise_floor.py"
            ;;
        splits) code="realfake/corpus/splits.py" tests="tests/test_splits.py" ;;
        *)
            echo "There is no part '$part'; there are conformal, calibration, metrics and splits." >&2
            exit 2
            ;;
    esac
    mkdir -p "mutants/$part"
    git ls-files -z -- realfake tests scripts requirements.txt pyproject.toml | xargs -0 cp -p --parents -t "mutants/$part"
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
    # Survivors are named; mutmut show NAME in mutants/PART prints one.
    (cd "mutants/$part" && "$python" -m mutmut results --all true) | awk -v part="$part" '
        / survived$| no tests$/ { print; left++ }
        / killed$| timeout$| segfault$/ { noticed++ }
        END {
            if (!(noticed + left)) { print part ": nothing was changed"; exit 1 }
            printf "%s: %d of %d changes noticed, %.1f %%\n", part, noticed, noticed + left, 100 * noticed / (noticed + left)
            exit noticed < 0.85 * (noticed + left)
        }' || status=1
done
exit $status
