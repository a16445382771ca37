"""Cluster of processes started by the commands of users, each process on its own machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.namespaces import Network
from common.errors import RunFailedError
from common.lifecycle import PARENT
from common.net.tokens import JOIN_TOKEN, OPERATOR_TOKEN
from deploy.certificates import making
from deploy.certificates.folders import EVALUATOR, MASTER, slave_folder

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS, STOP_SECONDS = 600.0, 20.0


class Loopback:
    """The local machine in place of a `Network`."""

    interface = "lo"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def address(self, machine: int) -> str:  # noqa: ARG002 - the interface of `Network`
        """Return the loopback address, the address of every process."""
        return "127.0.0.1"

    def inside(self, machine: int) -> list[str]:  # noqa: ARG002 - the interface of `Network`
        """Return an empty prefix: commands run unchanged."""
        return []

    def traffic(self, machine: int) -> None:  # noqa: ARG002 - the interface of `Network`
        """Return None: loopback has no counters for one process."""
        return


Machines = AbstractContextManager[Network | Loopback]


class ManualCluster:
    """A master on machine 0 and a slave on every further machine, started by the commands of users.

    Args:
        network: machines, one more than slaves.
        folder: folder for the state directory and the processes' output.
        settings: settings of the run, section.key=value.
        slaves: number of slaves that start with the master.
        slave: module that starts a slave.
        confined: command by which a slave is started, such as one that limits its memory.
        tls: whether all processes have certificates, of an authority of this cluster; slaves that are added
            later share folders with the first ones.

    Raises:
        RunFailedError: a process failed or ended early.
    """

    def __init__(
        self,
        network: Network | Loopback,
        folder: Path,
        settings: Sequence[str],
        slaves: int,
        slave: str = "deploy.cli",
        confined: Sequence[str] = (),
        tls: bool = False,
    ) -> None:
        self._network = network
        self._slave = slave
        self._confined = confined
        self._slaves_at_start, self._count = slaves, 0
        self._folder = folder
        self._settings = settings
        self._certificates = folder / "tls" if tls else None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._address = ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        (self._folder / "run.toml").touch()
        if self._certificates:
            making.make(self._certificates, making.plan([], max(1, self._slaves_at_start)), None, days=1)
        sets = [part for setting in self._settings for part in ("--set", setting)]
        state = ["--state-dir", str(self._folder / "state")]
        listen = ["--listen", f"{self._network.address(0)}:0"]
        own = self._tls(MASTER) or ["--insecure"]
        self._launch(0, "master", str(self._folder / "run.toml"), *listen, *own, *state, *sets)
        self._address = self._wait_for_address()
        self.add_slaves(self._slaves_at_start)

    def add_slaves(self, count: int) -> None:
        """Start slaves, each on a machine of its own."""
        for _ in range(count):
            self._count += 1
            self._start_slave(self._count)

    def _start_slave(self, machine: int) -> None:
        # In `basic` a slave listens on the interface that faces the master, beyond loopback.
        token = str(self._folder / "state" / JOIN_TOKEN)
        right = ["--insecure", "--join-token-file", token]
        if self._certificates:
            right = ["--tls", str(slave_folder(self._certificates, machine))]
        self._launch(machine, "slave", "--master", self._address, *right)

    def _tls(self, name: str) -> list[str]:
        """Return the option for a folder of certificates; empty in the clear."""
        return ["--tls", str(self._certificates / name)] if self._certificates else []

    def replace(self, pid: int) -> None:
        """Kill the slave with process id `pid` by SIGKILL, and start another on its machine at once."""
        machine = self.machine(pid)
        killed = self._processes[f"slave-{machine}"]
        killed.kill()
        killed.wait()
        self._start_slave(machine)

    def wait_for_steps(self, steps: int) -> dict[str, Any]:
        """Wait until every layer has made `steps` steps, and return the status."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            status = self.query("status")
            seats = status["seats"]
            if seats and min(seat["telemetry"]["steps"] for seat in seats) >= steps:
                return status
            if time.monotonic() > deadline:
                raise RunFailedError(f"not every layer reached step {steps}: {self._last_line('master-0')}")

    def wait_for_end(self) -> None:
        """Wait until the run is over and every slave has ended."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while any(self._running(name) for name in self._slaves):
            if not self._running("master-0") or time.monotonic() > deadline:
                raise RunFailedError(f"the run did not reach its end: {self._last_line('master-0')}")
            time.sleep(0.1)
        for name in self._slaves:
            if self._processes[name].returncode:
                raise RunFailedError(f"{name} failed: {self._last_line(name)}")

    def record_statuses(self) -> None:
        """Start to record the status every second."""
        self._launch(0, "status", "--master", self._address, "--json", "--watch", *self._tls(EVALUATOR))

    def recorded_statuses(self) -> list[dict[str, Any]]:
        """Return the recorded statuses, once the run is over."""
        self._processes["status-0"].wait(LIMIT_SECONDS)
        lines = (self._folder / "status-0").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def query(self, command: str) -> dict[str, Any]:
        """Run a query command on the master's machine, and return the JSON output."""
        arguments = [command, "--master", self._address, "--json", *self._tls(EVALUATOR)]
        if command == "evaluate" and not self._certificates:
            arguments += ["--token-file", str(self._folder / "state" / OPERATOR_TOKEN)]
        done = subprocess.run(
            self._command(0, *arguments), cwd=ROOT, env=environment(), capture_output=True, text=True
        )
        if done.returncode:
            raise RunFailedError(f"layerwise {command}: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def check(self) -> bool:
        """Return whether a slave still runs.

        Raises:
            RunFailedError: the master or a slave failed.
        """
        for name in ["master-0", *self._slaves]:
            if self._processes[name].poll():
                raise RunFailedError(f"{name} failed: {self._last_line(name)}")
        return any(self._running(name) for name in self._slaves)

    @property
    def address(self) -> str:
        """Address of the master."""
        return self._address

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the master and the slaves, by name."""
        return {name: self._processes[name].pid for name in ["master-0", *self._slaves]}

    @property
    def master(self) -> int:
        """Process id of the master."""
        return self._processes["master-0"].pid

    def machine(self, pid: int) -> int:
        """Return the machine of the slave with process id `pid`."""
        return next(m for m in range(1, self._count + 1) if self._processes[f"slave-{m}"].pid == pid)

    @property
    def _slaves(self) -> list[str]:
        return [name for name in self._processes if name.startswith("slave")]

    def _command(self, machine: int, *arguments: str) -> list[str]:
        slave = arguments[0] == "slave"
        module, confined = (self._slave, self._confined) if slave else ("deploy.cli", ())
        return [*self._network.inside(machine), *confined, sys.executable, "-m", module, *arguments]

    def _launch(self, machine: int, *arguments: str) -> None:
        name = f"{arguments[0]}-{machine}"
        with (self._folder / name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                self._command(machine, *arguments),
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # An interrupt at the terminal is for the benchmark, which stops all processes in order.
                start_new_session=True,
            )

    def _running(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + 60
        while self._running("master-0") and time.monotonic() < deadline:
            match = re.search(r"listening on (\S+),", (self._folder / "master-0").read_text(encoding="utf-8"))
            if match:
                return match[1]
            time.sleep(0.05)
        raise RunFailedError(f"the master did not listen: {self._last_line('master-0')}")

    def _last_line(self, name: str) -> str:
        lines = (self._folder / name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "its output is empty"

    def _stop(self) -> None:
        """Stop the slaves first, as in order; late processes are killed."""
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def environment() -> dict[str, str]:
    """Return the environment of a measured process: a single torch thread, and death with the parent."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", PARENT: str(os.getpid())}
