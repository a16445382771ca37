"""Profiles and unlocks on loopback and on links of 1 Gbit/s and 100 Mbit/s: error, throughput, bytes.

`python -m benchmarks links --mnist FOLDER` writes results/links.json; `--table` prints the table of
docs/results.md. On a link every process is on a machine of its own (`benchmarks.namespaces`): the master with
the evaluator, and three slaves. All processes are the command line's; the profiles take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import namespaces, records
from benchmarks.namespaces import Network
from common.errors import RunFailedError
from common.lifecycle import PARENT
from common.net.tokens import JOIN_TOKEN, OPERATOR_TOKEN

RESULTS = Path(__file__).parent / "results" / "links.json"
ROOT = Path(__file__).parents[1]
LAYERS = 3
LINKS = {"loopback": 0, "1 Gbit/s": 1000, "100 Mbit/s": 100}
SLOWEST = "100 Mbit/s"
PROFILES = {
    "light": "cluster.profile=light",
    "basic": "cluster.profile=basic",
    "served": "cluster.synthesis=master",
}
OTHER_UNLOCKS = ("none", "delayed", "full")
# The slowest link is for throughput alone, so its runs are this many times shorter.
FEWER = 5
# Tolerate late heartbeats: on crowded cores they are not failures.
COMMON = (f"network.layers={LAYERS}", "run.evaluate_every=1000000", "cluster.misses=20")
MNIST = ("network.options={widths=[256,256]}", "run.batch_size=256")
DIGITS = ("run.batch_size=64",)
LIMIT_SECONDS, STOP_SECONDS = 600.0, 20.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Run of the benchmark: link, profile, unlock and length."""

    link: str
    profile: str
    unlock: str
    batches: int

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings of the case alone, section.key=value."""
        return (PROFILES[self.profile], f"decoupling.unlock={self.unlock}", f"run.batches={self.batches}")


def cases(batches: int) -> list[Case]:
    """List every profile on every link, then further unlocks on the slowest link."""
    fewer = max(1, batches // FEWER)
    profiles = [
        Case(link, profile, "update", fewer if link == SLOWEST else batches)
        for link in LINKS
        for profile in PROFILES
    ]
    unlocks = [
        Case(SLOWEST, profile, each, fewer) for each in OTHER_UNLOCKS for profile in ("light", "basic")
    ]
    return [*profiles, *unlocks]


class Loopback:
    """The local machine in place of a `Network`."""

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
        slaves: number of slaves.
        slave: module that starts a slave.

    Raises:
        RunFailedError: a process failed or ended early.
    """

    def __init__(
        self,
        network: Network | Loopback,
        folder: Path,
        settings: Sequence[str],
        slaves: int = LAYERS,
        slave: str = "deploy.cli",
    ) -> None:
        self._network = network
        self._slave = slave
        self._count = slaves
        self._folder = folder
        self._settings = settings
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
        sets = [part for setting in self._settings for part in ("--set", setting)]
        state = ["--state-dir", str(self._folder / "state")]
        listen = ["--listen", f"{self._network.address(0)}:0", "--insecure"]
        self._launch(0, "master", str(self._folder / "run.toml"), *listen, *state, *sets)
        self._address = self._wait_for_address()
        for machine in range(1, self._count + 1):
            # In `basic` a slave listens on the interface that faces the master, beyond loopback.
            token = str(self._folder / "state" / JOIN_TOKEN)
            words = ("slave", "--master", self._address, "--insecure", "--join-token-file", token)
            self._launch(machine, *words)

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
        self._launch(0, "status", "--master", self._address, "--json", "--watch")

    def recorded_statuses(self) -> list[dict[str, Any]]:
        """Return the recorded statuses, once the run is over."""
        self._processes["status-0"].wait(LIMIT_SECONDS)
        lines = (self._folder / "status-0").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def query(self, command: str) -> dict[str, Any]:
        """Run a query command on the master's machine, and return the JSON output."""
        arguments = [command, "--master", self._address, "--json"]
        if command == "evaluate":
            arguments += ["--token-file", str(self._folder / "state" / OPERATOR_TOKEN)]
        done = subprocess.run(
            self._command(0, *arguments), cwd=ROOT, env=environment(), capture_output=True, text=True
        )
        if done.returncode:
            raise RunFailedError(f"layerwise {command}: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

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
        module = self._slave if arguments[0] == "slave" else "deploy.cli"
        return [*self._network.inside(machine), sys.executable, "-m", module, *arguments]

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


def measure(case: Case, settings: Sequence[str]) -> Row:
    """Run a case to the end, and return the values to compare.

    Raises:
        LayerwiseError: the run failed, or the network cannot be created.
    """
    mbit = LINKS[case.link]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        machines: Machines = Network(LAYERS + 1, mbit) if mbit else Loopback()
        network = stack.enter_context(machines)
        cluster = stack.enter_context(ManualCluster(network, folder, (*COMMON, *settings, *case.settings)))
        cluster.wait_for_end()
        status = cluster.query("status")
        traffic = {
            str(seat["layer"]): network.traffic(cluster.machine(seat["pid"])) for seat in status["seats"]
        }
        master = network.traffic(0)
        error = cluster.query("evaluate")["test_error_percent"]
    batch_size = next(int(each.partition("=")[2]) for each in settings if each.startswith("run.batch_size"))
    return {
        **asdict(case),
        **row(status, batch_size),
        "test_error_percent": error,
        "links": {"master": master, **traffic},
    }


def row(status: dict[str, Any], batch_size: int) -> Row:
    """Return the values to compare of a finished run's status."""
    seconds, counters = status["training_seconds"], status["counters"]
    return {
        "samples_per_second": round(status["of_batches"] * batch_size / seconds, 1),
        "messages_bytes": {"received": counters["bytes_received"], "sent": counters["bytes_sent"]},
        "waiting_fraction": {k: round(part, 4) for k, part in sorted(status["waiting_fraction"].items())},
        "idle_fraction": {
            # Training time starts when the last seat is taken; a lower layer may step before.
            str(seat["layer"]): round(max(0.0, 1 - seat["telemetry"]["step_seconds"] / seconds), 4)
            for seat in status["seats"]
        },
        "lost_batches": status["lost_batches"],
    }


def table(rows: Sequence[Row]) -> str:
    """Format the table of docs/results.md; on loopback the master's bytes count messages only."""
    columns = [_cells(each) for each in rows]
    return records.markdown(list(columns[0]), [list(each.values()) for each in columns])


def last_table() -> str:
    """Format the table of the last results.

    Raises:
        ConfigError: there are no results.
    """
    return table(records.read(RESULTS)["rows"])


def _cells(each: Row) -> dict[str, str]:
    messages, links = each["messages_bytes"], each["links"]
    sent, received = links["master"] or (messages["sent"], messages["received"])
    slaves = [pair for name, pair in links.items() if name != "master" and pair]
    return {
        "link": each["link"],
        "profile": each["profile"],
        "unlock": f"`{each['unlock']}`",
        "batches": f"{each['batches']:,}",
        "test error %": f"{each['test_error_percent']:.2f}",
        "samples/s": f"{each['samples_per_second']:,.0f}",
        "master, MB in + out": _megabytes(received, sent),
        "slaves, MB in + out": ", ".join(_megabytes(into, out) for out, into in slaves) or "-",
        "waiting, % of a step": _percent(each["waiting_fraction"]),
        "idle, % of the time": _percent(each["idle_fraction"]),
    }


def _megabytes(received: int, sent: int) -> str:
    return f"{received / 1e6:,.0f} + {sent / 1e6:,.0f}"


def _percent(fractions: dict[str, float]) -> str:
    return ", ".join(f"{100 * part:.0f}" for part in fractions.values())


def main(arguments: Sequence[str]) -> None:
    """Run every case, print a line for every case, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks links", description=__doc__)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files; without it, the digits")
    parser.add_argument(
        "--batches", type=int, default=1500, help=f"batches of a run; a {FEWER}th of it on the slowest link"
    )
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_table())
        return
    data = records.mnist_settings(chosen.mnist)
    namespaces.check()
    settings = (*data, *(MNIST if data else DIGITS))
    rows: list[Row] = []
    for case in cases(chosen.batches):
        rows.append(measure(case, settings))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    dataset = "mnist" if chosen.mnist else "digits"
    run_settings = [*COMMON, *records.without_data_path(settings)]
    records.write(RESULTS, {"dataset": dataset, "settings": run_settings, "rows": rows})
