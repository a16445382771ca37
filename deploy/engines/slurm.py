"""Batch script of a run for Slurm: a heterogeneous job of the master, the slaves' and the stores' tasks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.errors import ConfigError
from common.net.tokens import JOIN_TOKEN, OPERATOR_TOKEN
from deploy.certificates.folders import store_name
from deploy.engines.planning import Plan

# Time for the last pushes and snapshot, before the time limit ends the job; at most a quarter of the limit.
MOST_LEAD_SECONDS = 120
# Of the node with the master and the evaluator.
MASTER_CPUS = 2
_PARTITION = re.compile(r"[\w.,-]+", re.ASCII)
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")

_BODY = r"""
umask 077
mkdir -p "$run/logs" || exit
if [ -e "$run/summary.json" ]; then
    echo "$run: its run is finished"
    exit 0
fi
cat > "$run/requested.toml" << 'END'
@TOML@END
@CERTIFICATES@
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
    exec layerwise master "$run/requested.toml" --listen="0.0.0.0:$port" --state-dir="$run/state" @MASTER@
}

# Slaves stop first, so that their last pushes arrive.
stop() {
    [ -z "$evaluator" ] || kill -- "-$evaluator" 2> /dev/null
    if [ -n "$slaves" ]; then
        scancel --signal=TERM "$SLURM_JOB_ID+1" 2> /dev/null
        wait "$slaves"
    fi
@STOP@    [ -z "$master" ] || kill -- "-$master" 2> /dev/null
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
master="" slaves="" evaluator=""@NOSTORES@
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
@STORES@
OMP_NUM_THREADS=@CPUS@ srun --het-group=1 --ntasks=@SLAVES@ --cpus-per-task=@CPUS@@GPUS@ \
    --kill-on-bad-exit=1 --open-mode=append --output="$run/logs/slave-%t.log" \
    bash -c 'keep layerwise slave --master="$address" @SLAVE@' &
slaves=$!
layerwise evaluate --master="127.0.0.1:$port" --watch "$run" @EVALUATOR@ &
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
"""

_STORES = r"""
srun --het-group=2 --ntasks=@COUNT@ --cpus-per-task=1 \
    --kill-on-bad-exit=1 --open-mode=append --output="$run/logs/store-%t.log" \
    bash -c 'keep layerwise store --master="$address" \
        --state-dir="$run/store-$((SLURM_PROCID + 1))" @STORE@' &
stores=$!
"""

_STOP_STORES = r"""    if [ -n "$stores" ]; then
        scancel --signal=TERM "$SLURM_JOB_ID+2" 2> /dev/null
        wait "$stores"
    fi
"""

_OWN_CERTIFICATES = r"""
# Certificates for this run alone, made once; the key that signs them is deleted.
tls=$run/tls
if [ ! -d "$tls" ]; then
    rm -rf "$tls.new"
    layerwise certificates "$tls.new" --master "$(hostname)" --slaves @SLAVES@@STORES@ \
        > "$run/logs/certificates.log" || exit
    rm -r "$tls.new/authority"
    mv "$tls.new" "$tls"
fi
"""


class _Rights(NamedTuple):
    """Options of the commands, as words of the shell."""

    master: str
    store: str
    slave: str
    evaluator: str


_CERTIFIED = _Rights(
    '--tls="$tls/master"',
    '--tls="$tls/store-$((SLURM_PROCID + 1))"',
    '--tls="$tls/slave-$((SLURM_PROCID + 1))"',
    '--tls="$tls/evaluator"',
)
_JOINING = f'--insecure --join-token-file="$run/state/{JOIN_TOKEN}"'
_INSECURE = _Rights(
    "--insecure",
    _JOINING,
    _JOINING,
    f'--token-file="$run/state/{OPERATOR_TOKEN}"',
)


@dataclass(frozen=True)
class Wishes:
    """What a job asks Slurm for.

    Attributes:
        time: limit of a job's time, as sbatch takes it; the run goes on in the next job.
        partition: None: Slurm's default.
        cpus: of each slave.
        gpus: of each slave.
        run_dir: folder of the run, shared by the nodes; None: by the job's number, where it is submitted.
        tls: folder that `layerwise certificates` has made; None: the job makes one.
        insecure: whether the processes talk in the clear.
    """

    time: str
    partition: str | None
    cpus: int
    gpus: int
    run_dir: Path | None
    tls: Path | None
    insecure: bool


def render(plan: Plan, wishes: Wishes) -> str:
    """Render the batch script.

    Raises:
        ConfigError: the time or the partition is not one of Slurm's.
    """
    if wishes.partition and not _PARTITION.fullmatch(wishes.partition):
        raise ConfigError(f"--partition {wishes.partition}: is no name of a partition; see `sinfo -s`")
    rights = _INSECURE if wishes.insecure else _CERTIFIED
    code = f" {shlex.quote(f'--code={plan.code}')}" if plan.code else ""
    filled = {
        "TOML": plan.config.to_toml(),
        "CERTIFICATES": _certificates(plan, wishes),
        "MASTER": rights.master,
        # Within the single quotes of bash -c.
        "SLAVE": (rights.slave + code).replace("'", "'\\''"),
        "EVALUATOR": rights.evaluator + code,
        "SLAVES": str(plan.slaves),
        "STORES": _STORES.replace("@COUNT@", str(plan.stores)).replace("@STORE@", rights.store)
        if plan.stores
        else "",
        "NOSTORES": ' stores=""' if plan.stores else "",
        "STOP": _STOP_STORES if plan.stores else "",
        "CPUS": str(wishes.cpus),
        "GPUS": f" --gpus-per-task={wishes.gpus}" if wishes.gpus else "",
    }
    return "\n".join(_head(plan, wishes)) + re.sub("@([A-Z]+)@", lambda found: filled[found[1]], _BODY)


def _certificates(plan: Plan, wishes: Wishes) -> str:
    """Render the lines that choose or make certificates."""
    if wishes.insecure:
        return ""
    if wishes.tls:
        return f"tls={shlex.quote(str(wishes.tls.absolute()))}\n"
    stores = "".join(f" --add store={store_name(number)}" for number in range(1, plan.stores + 1))
    return _OWN_CERTIFICATES.replace("@SLAVES@", str(plan.slaves)).replace("@STORES@", stores)


def _head(plan: Plan, wishes: Wishes) -> Iterator[str]:
    """Yield the options of sbatch, and the folder of the run."""
    name = re.sub(r"[^\w.-]", "-", plan.config.run.name, flags=re.ASCII)
    place = [f"--partition={wishes.partition}"] if wishes.partition else []
    gpus = [f"--gpus-per-task={wishes.gpus}"] if wishes.gpus else []
    job = [
        f"--job-name={name}",
        f"--time={wishes.time}",
        f"--signal=B:USR1@{lead_seconds(wishes.time)}",
        "--requeue",
        f"--output={name}-%j.log",
        "--open-mode=append",
    ]
    master = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={MASTER_CPUS}", *place]
    slaves = [f"--ntasks={plan.slaves}", f"--cpus-per-task={wishes.cpus}", *gpus, *place]
    yield "#!/bin/bash"
    yield "# A run of layerwise; submit with sbatch, where `layerwise` is a command on every node."
    yield from (f"#SBATCH {option}" for option in job)
    yield "# The master and the evaluator."
    yield from (f"#SBATCH {option}" for option in master)
    yield "#SBATCH hetjob"
    yield "# The slaves."
    yield from (f"#SBATCH {option}" for option in slaves)
    if plan.stores:
        yield "#SBATCH hetjob"
        yield "# The stores."
        yield from (
            f"#SBATCH {option}" for option in (f"--ntasks={plan.stores}", "--cpus-per-task=1", *place)
        )
    yield ""
    yield "# Folder of the run, which every node sees."
    folder = '"$SLURM_SUBMIT_DIR/runs/$SLURM_JOB_NAME-$SLURM_JOB_ID"'
    if wishes.run_dir:
        folder = shlex.quote(str(wishes.run_dir.absolute()))
    yield f"run=${{LAYERWISE_RUN:-{folder}}}"


def lead_seconds(time: str) -> int:
    """Return the seconds before the time limit at which a run stops to go on in the next job.

    Raises:
        ConfigError: not a time of at least a minute in one of sbatch's forms.
    """
    found = _TIME.fullmatch(time)
    if found is None:
        raise _refuse(time)
    days, *rest = found.groups()
    first, second, third = (int(each or 0) for each in rest)
    if days is not None:
        seconds = int(days) * 86_400 + first * 3_600 + second * 60 + third
    elif rest[2] is not None:
        seconds = first * 3_600 + second * 60 + third
    else:
        seconds = first * 60 + second
    if seconds < 60:
        raise _refuse(time)
    return min(MOST_LEAD_SECONDS, seconds // 4)


def _refuse(time: str) -> ConfigError:
    return ConfigError(
        f"--time {time}: is no time of a minute or more; give minutes, hours:minutes:seconds or "
        "days-hours:minutes:seconds"
    )
