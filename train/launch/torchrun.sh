#!/usr/bin/env bash
# Train on all GPUs of one machine, or on several machines, with torchrun.
#
#   train/launch/torchrun.sh --data photos/ --output-dir runs/mine
#
# Several machines: run the same line on each, with a run folder that all of them share.
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=first-machine train/launch/torchrun.sh ...     on the first
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=first-machine train/launch/torchrun.sh ...     on the second
#
# Edit, or set in the environment:
NPROC=${NPROC:-gpu}                # processes on each machine: `gpu` is one for each GPU; a number with --device cpu
NNODES=${NNODES:-1}                # machines
NODE_RANK=${NODE_RANK:-0}          # which of them this is, from 0
MASTER_ADDR=${MASTER_ADDR:-localhost}
MASTER_PORT=${MASTER_PORT:-29500}  # a port that is free on the first machine
set -euo pipefail

# On CPUs torchrun gives each process one thread unless told otherwise: OMP_NUM_THREADS=(cores / NPROC).
# Ctrl-C and SIGTERM reach every rank, which saves and ends. After this many seconds torchrun kills it.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}

if ((NNODES == 1)); then
  where=(--standalone)
else
  where=(--nnodes="$NNODES" --node-rank="$NODE_RANK" --rdzv-backend=c10d --rdzv-id=linearsr
    --rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT")
fi
exec torchrun "${where[@]}" --nproc-per-node="$NPROC" -m linearsr_cli.app train "$@"
