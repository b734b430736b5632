#!/usr/bin/env bash
# Runs the tests again and again, each time in another order and without a network, and stops at the first failure:
#   bash scripts/repeat_tests.sh 10 repeats.jsonl
# The report gets a line a run: the seed of the order, pytest's last words, seconds. Needs unshare (util-linux) and ip (iproute2).
set -euo pipefail
. "$(dirname "$0")/environment.sh"
prepare_environment requirements.txt tests/requirements.txt
runs=${1:-10} report=${2:-repeats.jsonl}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for seed in $(seq "$runs"); do
    started=$SECONDS status=0
    # A network of its own that has the loopback and nothing else.
    unshare --map-root-user --net bash -c 'ip link set lo up && exec bash scripts/run_tests.sh -q --randomly-seed "$0"' "$seed" \
        >"$log" 2>&1 || status=$?
    words=$(tail -n 1 "$log" | tr -d '="\\')
    printf '{"seed": %d, "status": %d, "said": "%s", "seconds": %d}\n' "$seed" "$status" "$words" $((SECONDS - started)) |
        tee -a "$report"
    if [ "$status" != 0 ]; then
        cat "$log" >&2
        exit "$status"
    fi
done
