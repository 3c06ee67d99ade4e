#!/bin/bash
# A sweep as a Slurm array: one job a part, each on one node. Submit with `sbatch docs/examples/sweep_slurm.sh`;
# when the array is through, `clipjax sweep SUITE --collect` says whether anything is missing.
#SBATCH --job-name=clipjax-sweep
#SBATCH --array=1-8
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sweep-%A_%a.log
# This script, and not only its steps, is told a minute before the time is over.
#SBATCH --signal=B:TERM@60

suite=${SUITE:-suite.toml}
shared=${SHARED:-$HOME/clipjax} # a file system that all nodes see
scratch=${SLURM_TMPDIR:-/tmp}/clipjax

# Several tasks a job (a node with more GPUs than one process should have): they work together.
together=()
if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
    together=(--distributed)
fi

srun clipjax sweep "$suite" "${together[@]}" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --results "$shared/results" --store "$shared/store" --pixel-store "$scratch/pixels" &
sweep=$!
trap 'kill -TERM "$sweep"' TERM

# A signal ends `wait` and not the sweep, which then stores what it is at.
wait "$sweep"
code=$?
while kill -0 "$sweep" 2>/dev/null; do
    wait "$sweep"
    code=$?
done

if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
