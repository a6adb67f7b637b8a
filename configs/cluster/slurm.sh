#!/bin/bash
# A sweep as one Slurm job, with a Ray cluster of its own on the job's nodes. Submit it from a folder that all nodes
# share, with the options of `lmsweep run`:
#
#     sbatch --nodes=4 configs/cluster/slurm.sh --config my.yaml --name mine
#
# The same command starts the sweep and resumes it. Two minutes before the time limit, or when the job is preempted, the
# sweep saves its trials, and the job is put back into the queue. See docs/howto/cluster-slurm.md.
#
#SBATCH --job-name=lmsweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:TERM@120

set -euo pipefail
umask 077
# Activate the environment that has lmsweep, if the login shell does not:
# source "$SLURM_SUBMIT_DIR/.venv/bin/activate"

cd "$SLURM_SUBMIT_DIR"
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export address="${hosts[0]}:$((20000 + SLURM_JOB_ID % 10000))" # another job of yours may have the default port

# The token is made in the job and readable by you alone. It also says that the job is not over: without it, nodes stop.
mkdir -p .slurm
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.slurm/token-$SLURM_JOB_ID"
rm -f "$RAY_AUTH_TOKEN_PATH"
lmsweep cluster-token > /dev/null

# Runs on every node: Ray, with a temporary folder that other users cannot enter, until the token is gone.
# shellcheck disable=SC2317 # it is called on the nodes
start_node() {
    # Mode 700, and short, because the paths of sockets must be. Ray opens its own folder to all users, so it is inside.
    private=$(mktemp -d /tmp/ray-XXXXXX)
    trap 'rm -rf "$private"' EXIT
    if [ "$SLURM_NODEID" = 0 ]; then
        role=(--head --port="${address##*:}")
    else
        role=(--address="$address")
    fi
    ray start "${role[@]}" --temp-dir="$private/ray" --disable-usage-stats --block &
    while [ -e "$RAY_AUTH_TOKEN_PATH" ] && kill -0 $! 2> /dev/null; do
        sleep 1
    done
    kill $! 2> /dev/null || true
    wait $! || true
}
srun --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0 --no-kill --wait=0 \
    bash -c "$(declare -f start_node); start_node" &
nodes=$!

end_nodes() {
    rm -f "$RAY_AUTH_TOKEN_PATH"
    wait "$nodes" || true
}
trap end_nodes EXIT

# Nodes that are late join while the sweep runs; only the head must be there.
for ((second = 0; second < 180; second++)); do
    lmsweep cluster-token --check "$address" > /dev/null 2>&1 && break
    sleep 1
done

lmsweep run --address "$address" --resume auto "$@" &
sweep=$!
trap 'kill -TERM "$sweep"' TERM
code=0
wait "$sweep" || code=$?
while kill -0 "$sweep" 2> /dev/null; do # the signal ended `wait`, and the sweep still saves its trials
    code=0
    wait "$sweep" || code=$?
done

if [ "$code" = 143 ]; then # terminated, with its trials saved
    end_nodes
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
