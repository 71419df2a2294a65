#!/usr/bin/env bash
# One machine: bash docs/launch/torchrun.sh CONFIG.toml [--section.key value ...]
# One process for each GPU; GPUS says how many (default: all of the machine's).
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 CONFIG.toml [--section.key value ...]" >&2; exit 2; }
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
exec torchrun --standalone --nproc-per-node "$GPUS" -m llm train "$@"
