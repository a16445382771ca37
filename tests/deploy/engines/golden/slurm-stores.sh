#!/bin/bash
# A run of layerwise; submit with sbatch, where `layerwise` is a command on every node.
#SBATCH --job-name=digits
#SBATCH --time=1:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=digits-%j.log
#SBATCH --open-mode=append
# The master and the evaluator.
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --partition=long
#SBATCH hetjob
# The slaves.
#SBATCH --ntasks=3
#SBATCH --cpus-per-task=1
#SBATCH --partition=long
#SBATCH hetjob
# The stores.
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=1
#SBATCH --partition=long

# Folder of the run, which every node sees.
run=${LAYERWISE_RUN:-"$SLURM_SUBMIT_DIR/runs/$SLURM_JOB_NAME-$SLURM_JOB_ID"}
umask 077
mkdir -p "$run/logs" || exit
if [ -e "$run/summary.json" ]; then
    echo "$run: its run is finished"
    exit 0
fi
cat > "$run/requested.toml" << 'END'
(configuration)
END

# Certificates for this run alone, made once; the key that signs them is deleted.
tls=$run/tls
if [ ! -d "$tls" ]; then
    rm -rf "$tls.new"
    layerwise certificates "$tls.new" --master "$(hostname)" --slaves 3 --add store=store-1 --add store=store-2 \
        > "$run/logs/certificates.log" || exit
    rm -r "$tls.new/authority"
    mv "$tls.new" "$tls"
fi

# Run a command, and start it again when a signal has killed it, five times at most. Slurm and `stop` send
# SIGTERM to a command and to this function alike.
keep() {
    local code stopping="" left
    trap 'stopping=1' TERM
    for left in 4 3 2 1 0; do
        "$@" &
        wait $!
        code=$?
        if [ -n "$stopping" ]; then
            wait
            return 0
        fi
        [ "$code" -gt 128 ] || break
        echo "$*: killed by signal $((code - 128)); $left restarts are left" >&2
    done
    return "$code"
}

# A master that is restarted keeps the port, which its slaves know.
serve() {
    local port=0
    [ ! -s "$run/state/address" ] || port=$(sed 's/.*://' "$run/state/address")
    exec layerwise master "$run/requested.toml" --listen="0.0.0.0:$port" --state-dir="$run/state" --tls="$tls/master"
}

# Slaves stop first, so that their last pushes arrive.
stop() {
    [ -z "$evaluator" ] || kill -- "-$evaluator" 2> /dev/null
    if [ -n "$slaves" ]; then
        scancel --signal=TERM "$SLURM_JOB_ID+1" 2> /dev/null
        wait "$slaves"
    fi
    if [ -n "$stores" ]; then
        scancel --signal=TERM "$SLURM_JOB_ID+2" 2> /dev/null
        wait "$stores"
    fi
    [ -z "$master" ] || kill -- "-$master" 2> /dev/null
    wait
}

requeue() {
    trap '' USR1
    echo "$1: the run stops, and goes on when the job starts again"
    stop
    scontrol requeue "$SLURM_JOB_ID" && exit 0
    echo "Slurm does not requeue the job; submit the script again with LAYERWISE_RUN=$run"
    exit 1
}

# Each of these is a process group.
set -m
master="" slaves="" evaluator="" stores=""
trap 'requeue "the time limit is near"' USR1
rm -f "$run/state/address"
keep serve >> "$run/logs/master.log" 2>&1 &
master=$!
until [ -s "$run/state/address" ]; do
    if ! kill -0 "$master" 2> /dev/null; then
        tail -n 1 "$run/logs/master.log"
        wait "$master"
        exit
    fi
    sleep 0.2
done
port=$(sed 's/.*://' "$run/state/address")
address=$(hostname):$port
export run address tls
export -f keep

srun --het-group=2 --ntasks=2 --cpus-per-task=1 \
    --kill-on-bad-exit=1 --open-mode=append --output="$run/logs/store-%t.log" \
    bash -c 'keep layerwise store --master="$address" \
        --state-dir="$run/store-$((SLURM_PROCID + 1))" --tls="$tls/store-$((SLURM_PROCID + 1))"' &
stores=$!

OMP_NUM_THREADS=1 srun --het-group=1 --ntasks=3 --cpus-per-task=1 \
    --kill-on-bad-exit=1 --open-mode=append --output="$run/logs/slave-%t.log" \
    bash -c 'keep layerwise slave --master="$address" --tls="$tls/slave-$((SLURM_PROCID + 1))"' &
slaves=$!
layerwise evaluate --master="127.0.0.1:$port" --watch "$run" --tls="$tls/evaluator" &
evaluator=$!

# The evaluator ends with the run. Others end before it when they fail. What signals have killed
# may live on other nodes: three times.
code=0
while [ "$code" = 0 ] && kill -0 "$evaluator" 2> /dev/null; do
    wait -n
    code=$?
done
if [ "$code" -gt 128 ] && [ "$(cat "$run/killed" 2> /dev/null | wc -l)" -lt 3 ]; then
    date >> "$run/killed"
    requeue "a process was killed"
fi
stop
[ "$code" = 0 ] || tail -n 1 "$run"/logs/*.log
exit "$code"
