#!/usr/bin/env bash
# Train on one machine: bash docs/launch/torchrun.sh CONFIG.toml [--section.key value ...]
# It starts one process for each GPU. The variable GPUS limits their number (default: all GPUs).
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 CONFIG.toml [--section.key value ...]" >&2; exit 2; }
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
exec torchrun --standalone --nproc-per-node "$GPUS" -m llm train "$@"
