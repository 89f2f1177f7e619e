#!/usr/bin/env bash
# Tests and measurements on one GPU, in less than nine minutes and without the network:
#
#   [WHEELS=DIR] [PYTHON=python3] bash benchmarks/gpu.sh OUT [--parts NAME...]
#   [PYTHON=python3] bash benchmarks/gpu.sh --dry-run [OUT]    # the same code on the CPU, tiny
#
# OUT gets gpu.json and gpu.md. DIR holds wheels of what the Python lacks (docs/reference/gpu.md).
set -euo pipefail

dry=()
if [[ ${1:-} == --dry-run ]]; then
    dry=(--dry-run)
    shift
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [[ -z ${1:-} && ${#dry[@]} == 0 ]]; then
    echo "usage: [WHEELS=DIR] [PYTHON=python3] bash benchmarks/gpu.sh [--dry-run] OUT" >&2
    exit 2
fi
out=$(realpath -m "${1:-$scratch/out}")
shift $(($# > 0))
wheels=${WHEELS:+$(realpath -m "$WHEELS")}
cd "$(dirname "$0")/.."

default=python3
if [[ -x .venv/bin/python ]]; then
    default=.venv/bin/python
fi
python=${PYTHON:-$default}
export PYTHONPATH=$PWD
if [[ -n $wheels ]]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
        --target "$scratch/site" "$wheels"/*.whl
    PYTHONPATH=$scratch/site:$PWD
fi
export XDG_CACHE_HOME=$scratch/cache HF_HUB_OFFLINE=1
"$python" -m benchmarks.gpu_wheels --check
"$python" -m benchmarks.gpu "$out" --scratch "$scratch" "${dry[@]}" "$@"
