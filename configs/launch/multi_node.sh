#!/usr/bin/env bash
# A run on several machines without a scheduler. On each of them, in any order, from the checkout:
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 configs/launch/multi_node.sh RUN [FILE.yaml …] [key=value …]
#
# NODE_RANK counts the machines from 0, which is the one of MASTER_ADDR. MASTER_PORT (29500) must be free there, PROCESSES
# are those of each machine (one a GPU). RUN, the checkout and the data lie on file systems that all machines share.
#
# SIGTERM, SIGINT, SIGHUP or SIGUSR1 on one machine: all ranks save, and the script ends there; those on the other machines
# start again and wait for it to come back. Twice: now. Whatever else ends the run ends all scripts.
set -u

run=${1:?usage: NODES=… NODE_RANK=… MASTER_ADDR=… configs/launch/multi_node.sh RUN [FILE.yaml …] [key=value …]}
shift
: "${NODES:?how many machines}" "${NODE_RANK:?the number of this machine}" "${MASTER_ADDR:?the address of machine 0}"

marker() { cat "$run/preempted.json" 2>/dev/null; }
pass_on() {
    asked=$1
    kill -s "$asked" "$launcher"
}

# torchrun kills ranks that have not saved 30 s after it passed a signal on; torch 2.11 cannot be told otherwise.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}
asked=""
while true; do
    before=$(marker)
    # In a session of its own, so that Ctrl-C comes to it once. Without SIGHUP, which ranks die of: so nohup works.
    setsid python -m torch.distributed.run --nnodes="$NODES" --node_rank="$NODE_RANK" \
        --master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-29500}" --rdzv_conf=timeout=3600 \
        --nproc_per_node="${PROCESSES:-gpu}" --signals-to-handle=SIGTERM,SIGINT,SIGQUIT,SIGUSR1 \
        pretrain.py "$@" "run.directory=$run" &
    launcher=$!
    trap 'pass_on TERM' TERM HUP
    trap 'pass_on INT' INT
    trap 'pass_on USR1' USR1
    while wait "$launcher"; status=$?; kill -0 "$launcher" 2>/dev/null; do :; done # signals interrupt it

    after=$(marker)
    if [[ -n $asked || -z $after || $after == "$before" ]]; then
        exit "$status"
    fi
    echo "another machine was asked to end, $after: starting again"
    sleep 10 # until the launcher of machine 0 has ended too: what comes early would join the run that is over
done
