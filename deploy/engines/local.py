"""Engine of this machine: every process is a child of this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from common.config.sections import Config
from common.cores import count_cores
from common.lifecycle import PARENT, PLACE, SHIELDED
from common.net.addresses import loopback_host
from common.net.tokens import JOIN_TOKEN
from deploy import COMMAND
from deploy.engines.engine import SLAVE, STORE, Order
from deploy.engines.placement import Placement
from deploy.runs.directory import CONFIG, RunDirectory
from deploy.runs.process_logs import open_log


class LocalProcess:
    """A child of this process."""

    loss = ""

    def __init__(self, child: subprocess.Popen[bytes], *, shielded: bool = False) -> None:
        self._child = child
        self._shielded = shielded
        self.place: tuple[str, int] | None = (socket.gethostname(), child.pid)

    def poll(self) -> int | None:
        """Return the exit code, -N after signal N; None before the end."""
        return self._child.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        shielded = self._shielded and number == signal.SIGTERM
        self._child.send_signal(signal.SIGINT if shielded else number)

    def wait(self, seconds: float) -> bool:
        """Wait for the end; False if the process goes on."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill the process, and wait for the end."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()


class LocalEngine:
    """Starts processes on this machine, where they find the files of the run.

    Args:
        directory: of the run.
        threads: of each process, unless the user has chosen.
        shielded: master and stores end by this process alone, though others send them SIGTERM.
    """

    def __init__(self, directory: RunDirectory, threads: int, *, shielded: bool = False) -> None:
        self.host = loopback_host()
        self._shielded = shielded
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ, PARENT: str(os.getpid())}
        self._environment |= {SHIELDED: "1"} if shielded else {}
        token = f"--join-token-file={directory.state / JOIN_TOKEN}"
        self._own = {STORE: [token], SLAVE: [token, f"--own-config={directory.path / CONFIG}"]}

    def place(self, order: Order) -> LocalProcess:
        """Start a process.

        Raises:
            OSError: files or memory are short at present.
        """
        tls = [f"--tls={order.tls}"] if order.tls else []
        arguments = [order.command, *order.arguments, *tls, *self._own.get(order.command, [])]
        # With several GPUs slaves take them by turns.
        environment = {**self._environment, PLACE: str(order.number)}
        with open_log(order.log) as output:
            child = start(arguments, environment, output.fileno())
            return LocalProcess(child, shielded=self._shielded)

    def tell(self) -> list[str]:
        """Return no news: a process has its place at once."""
        return []

    def close(self) -> None:
        """Give nothing back: children have ended."""


def open_engine(placement: Placement, directory: RunDirectory, config: Config) -> LocalEngine:  # noqa: ARG001
    """Open the engine; the slaves of a run share the cores."""
    return LocalEngine(directory, share_cores(sum(config.replicas)))


def share_cores(processes: int) -> int:
    """Return the threads of a process when so many processes share this machine's cores."""
    return max(1, count_cores() // processes)


def start(arguments: Sequence[str], environment: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    """Start a command of layerwise as a child, with a file descriptor for the output.

    Raises:
        OSError: files or memory are short at present.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        # A separate session: an interrupt at the terminal is for `train`, which stops all in order.
        start_new_session=True,
    )
