"""Slurm for real on this machine: munge, a controller, and nodes that share the machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.integration.processes import until

NODES = 3
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until credentials have expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=1,sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Return why Slurm cannot run here; nothing if it can."""
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)}: not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons start jobs of other users, as root"


class SlurmCluster:
    """Daemons of a cluster; each is a process of this one and ends by `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._logs = folder / "daemons.log"
        host = socket.gethostname()
        controller, *ports = _free_ports(1 + NODES)
        nodes = [
            f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4"
            for number, port in enumerate(ports)
        ]
        (folder / "state").mkdir()
        conf = folder / "slurm.conf"
        conf.write_text(_CONF.format(host=host, controller=controller, folder=folder, nodes="\n".join(nodes)))
        self.environment = {**os.environ, "SLURM_CONF": str(conf), "OMP_NUM_THREADS": "1"}

    def start(self) -> None:
        """Start the daemons, and wait until every node is idle."""
        key = self._folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        at = {
            "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed",
            "log-file": "munged.log", "key-file": key.name,
        }  # fmt: skip
        places = [f"--{option}={self._folder / name}" for option, name in at.items()]
        self._daemon("munged", "--foreground", "--force", *places)
        until((self._folder / "munge.socket").exists, 30)
        self._daemon("slurmctld", "-D", "-i")
        for number in range(NODES):
            self._daemon("slurmd", "-D", "-N", f"n{number}")
        until(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(NODES), 60)

    def ask(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command of Slurm; its output, which is empty while the controller does not answer."""
        done = subprocess.run(command, env=self.environment, cwd=cwd, capture_output=True, text=True)
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return the facts of a job; of a heterogeneous one those of its first part."""
        first = self.ask("scontrol", "--oneliner", "show", "job", number).partition("\n")[0]
        return dict(word.partition("=")[::2] for word in first.split())

    def close(self) -> None:
        """Cancel all jobs, and end the daemons."""
        self.ask("scancel", "--user=root", "--full")
        until(lambda: not self.ask("squeue", "-h").strip(), 60)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(self._daemons):
            daemon.wait(30)

    def _daemon(self, *command: str) -> None:
        with self._logs.open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
