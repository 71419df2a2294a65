#!/usr/bin/env bash
# Train on a SLURM cluster: sbatch docs/launch/slurm.sh CONFIG.toml [--section.key value ...]
# Submit it from the root of the checkout. Set partition, account and time as your cluster needs.
# The same command again resumes from the last checkpoint, even on another number of nodes.
#SBATCH --job-name=jackpot
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: sbatch $0 CONFIG.toml [--section.key value ...]" >&2; exit 2; }
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
# Each node runs one torchrun, which starts one process for each GPU of the node. On SIGTERM the
# run is saved, and the exit status is 143.
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" \
    -m llm train "$@"
