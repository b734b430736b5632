#!/usr/bin/env bash
# Runs the tests several times, in random order and without a network, until a run fails:
#   bash scripts/repeat_tests.sh 10 repeats.jsonl
# Each run adds a line to the report: the seed of the order, pytest's summary, the seconds.
# Needs unshare (util-linux) and ip (iproute2).
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment test
runs=${1:-10} report=${2:-repeats.jsonl}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for seed in $(seq "$runs"); do
    started=$SECONDS status=0
    # A network namespace with only the loopback interface.
    unshare --map-root-user --net bash -c 'ip link set lo up && exec bash scripts/run_tests.sh -q --randomly-seed "$0"' "$seed" \
        >"$log" 2>&1 || status=$?
    summary=$(tail -n 1 "$log" | tr -d '="\\')
    printf '{"seed": %d, "status": %d, "summary": "%s", "seconds": %d}\n' "$seed" "$status" "$summary" $((SECONDS - started)) |
        tee -a "$report"
    if [ "$status" != 0 ]; then
        cat "$log" >&2
        exit "$status"
    fi
done
