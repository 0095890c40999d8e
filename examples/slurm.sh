#!/bin/bash
# Self-play on several machines: sbatch --nodes 2 --gres gpu:8 examples/slurm.sh OPTIONS OF serl-trl train
#SBATCH --job-name serl-trl
#SBATCH --ntasks-per-node 1
#SBATCH --cpus-per-task 32
#SBATCH --time 24:00:00
#SBATCH --signal TERM@300
#SBATCH --output serl-trl-%j.log

set -euo pipefail
main=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a machine need ports of their own

export main port
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun takes no other word for it since Slurm 22.05
: "${SLURM_GPUS_ON_NODE:?Ask for GPUs, e.g. by --gres gpu:8}"

# One launcher on each machine. --kill-on-bad-exit ends all where one fails, and the others would wait.
srun --kill-on-bad-exit=1 bash -c 'exec serl-trl train "$@" \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
    --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
    --main_process_ip "$main" --main_process_port "$port"' serl-trl "$@"
