"""Profiles and unlocks on loopback and on links of 1 Gbit/s and 100 Mbit/s: error, throughput, bytes.

`python -m benchmarks links --mnist FOLDER` writes results/links.json; `--table` prints docs/results.md's
table of it. On a link every process is on a machine of its own (`benchmarks.namespaces`): the master, with
the evaluator, and three slaves. All are the command line's; the profiles take turns.
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

from benchmarks import kept, namespaces
from benchmarks.namespaces import Network
from common.errors import RunFailedError
from common.lifecycle import PARENT

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
# On the slowest link only throughput is asked for: so many times fewer batches there.
FEWER = 5
# Crowded cores are no failure.
COMMON = (f"network.layers={LAYERS}", "run.evaluate_every=1000000", "cluster.misses=20")
MNIST = ("network.options={widths=[256,256]}", "run.batch_size=256")
DIGITS = ("run.batch_size=64",)
LIMIT_SECONDS, STOP_SECONDS = 600.0, 20.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One run."""

    link: str
    profile: str
    unlock: str
    batches: int

    @property
    def settings(self) -> tuple[str, ...]:
        """What of the configuration is its own."""
        return (PROFILES[self.profile], f"decoupling.unlock={self.unlock}", f"run.batches={self.batches}")


def cases(batches: int) -> list[Case]:
    """Every profile on every link, then the other unlocks on the slowest one."""
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
    """This machine, instead of a `Network`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def address(self, machine: int) -> str:  # noqa: ARG002 - as of a `Network`
        """Everyone's address."""
        return "127.0.0.1"

    def inside(self, machine: int) -> list[str]:  # noqa: ARG002 - as of a `Network`
        """Nothing is needed to run a command here."""
        return []

    def traffic(self, machine: int) -> None:  # noqa: ARG002 - as of a `Network`
        """There is no link to count on."""
        return


Machines = AbstractContextManager[Network | Loopback]


class Cluster:
    """A master on machine 0 and a slave on each other one, started by hand.

    Args:
        network: of one machine more than there are slaves.
        folder: for the state directory and what the processes say.
        settings: section.key=value.
        slaves: how many.
        slave: the module that a slave is started with.

    Raises:
        RunFailedError: a process of it ended otherwise than it should.
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
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start(self) -> None:
        (self._folder / "run.toml").touch()
        sets = [part for setting in self._settings for part in ("--set", setting)]
        state = ["--state-dir", str(self._folder / "state")]
        listen = ["--listen", f"{self._network.address(0)}:0", "--insecure"]
        self._launch(0, "master", str(self._folder / "run.toml"), *listen, *state, *sets)
        self._address = self._listening()
        for machine in range(1, self._count + 1):
            # In `basic` it listens where it reaches the master, beyond its own loopback.
            self._launch(machine, "slave", "--master", self._address, "--insecure")

    def stepped(self, steps: int) -> dict[str, Any]:
        """Wait until every layer has made so many steps; what `status` says then."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            status = self.asked("status")
            seats = status["seats"]
            if seats and min(seat["telemetry"]["steps"] for seat in seats) >= steps:
                return status
            if time.monotonic() > deadline:
                raise RunFailedError(f"not every layer came to step {steps}: {self._said('master-0')}")

    def trained(self) -> None:
        """Wait until every slave has ended, the run being over."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while any(self._running(name) for name in self._slaves):
            if not self._running("master-0") or time.monotonic() > deadline:
                raise RunFailedError(f"the run did not come to its end: {self._said('master-0')}")
            time.sleep(0.1)
        for name in self._slaves:
            if self._processes[name].returncode:
                raise RunFailedError(f"{name} failed: {self._said(name)}")

    def watch(self) -> None:
        """Have what `status` says be written down from now on, every second."""
        self._launch(0, "status", "--master", self._address, "--json", "--watch")

    def watched(self) -> list[dict[str, Any]]:
        """What was written down, the run being over."""
        self._processes["status-0"].wait(LIMIT_SECONDS)
        lines = (self._folder / "status-0").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def asked(self, command: str) -> dict[str, Any]:
        """What a command says of the master, from the master's machine."""
        arguments = (command, "--master", self._address, "--json")
        done = subprocess.run(
            self._command(0, *arguments), cwd=ROOT, env=environment(), capture_output=True, text=True
        )
        if done.returncode:
            raise RunFailedError(f"layerwise {command}: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @property
    def master(self) -> int:
        """Its process id."""
        return self._processes["master-0"].pid

    def machine(self, pid: int) -> int:
        """Where the slave of that process id is."""
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
                # An interrupt at the terminal is for the benchmark, which stops them in order.
                start_new_session=True,
            )

    def _running(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def _listening(self) -> str:
        deadline = time.monotonic() + 60
        while self._running("master-0") and time.monotonic() < deadline:
            found = re.search(r"listening on (\S+),", (self._folder / "master-0").read_text(encoding="utf-8"))
            if found:
                return found[1]
            time.sleep(0.05)
        raise RunFailedError(f"the master did not listen: {self._said('master-0')}")

    def _said(self, name: str) -> str:
        lines = (self._folder / name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _end(self) -> None:
        """The slaves first, as in order; whoever takes too long is killed."""
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def environment() -> dict[str, str]:
    """Of a process that is measured: one torch thread, and no longer life than this one."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", PARENT: str(os.getpid())}


def measured(case: Case, settings: Sequence[str]) -> Row:
    """Run a case to its end; what is compared of it.

    Raises:
        LayerwiseError: the run failed, or the network cannot be made.
    """
    mbit = LINKS[case.link]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        machines: Machines = Network(LAYERS + 1, mbit) if mbit else Loopback()
        network = stack.enter_context(machines)
        cluster = stack.enter_context(Cluster(network, folder, (*COMMON, *settings, *case.settings)))
        cluster.trained()
        status = cluster.asked("status")
        traffic = {
            str(seat["layer"]): network.traffic(cluster.machine(seat["pid"])) for seat in status["seats"]
        }
        master = network.traffic(0)
        error = cluster.asked("evaluate")["test_error_percent"]
    batch_size = next(int(each.partition("=")[2]) for each in settings if each.startswith("run.batch_size"))
    return {
        **asdict(case),
        **row(status, batch_size),
        "test_error_percent": error,
        "links": {"master": master, **traffic},
    }


def row(status: dict[str, Any], batch_size: int) -> Row:
    """What of a finished run's status is compared."""
    seconds, counters = status["training_seconds"], status["counters"]
    return {
        "samples_per_second": round(status["of_batches"] * batch_size / seconds, 1),
        "messages_bytes": {"received": counters["bytes_received"], "sent": counters["bytes_sent"]},
        "waiting_fraction": {k: round(part, 4) for k, part in sorted(status["waiting_fraction"].items())},
        "idle_fraction": {
            # Before the last seat is taken, where training begins, a lower layer may already step.
            str(seat["layer"]): round(max(0.0, 1 - seat["telemetry"]["step_seconds"] / seconds), 4)
            for seat in status["seats"]
        },
        "lost_batches": status["lost_batches"],
    }


def table(rows: Sequence[Row]) -> str:
    """Rows as docs/results.md has them; bytes of loopback's master are those of its messages."""
    columns = [_cells(each) for each in rows]
    return kept.markdown(list(columns[0]), [list(each.values()) for each in columns])


def last_table() -> str:
    """The table of the last results.

    Raises:
        ConfigError: there are none.
    """
    return table(kept.read(RESULTS)["rows"])


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
    """Run every case, print a line each, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks links", description=__doc__)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files; else the digits are used")
    parser.add_argument("--batches", type=int, default=1500, help=f"on the slowest link 1 in {FEWER} of it")
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_table())
        return
    data = kept.mnist(chosen.mnist)
    namespaces.check()
    settings = (*data, *(MNIST if data else DIGITS))
    rows: list[Row] = []
    for case in cases(chosen.batches):
        rows.append(measured(case, settings))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    dataset = "mnist" if chosen.mnist else "digits"
    result = {"dataset": dataset, "settings": [*COMMON, *kept.settings_of(settings)], "rows": rows}
    kept.write(RESULTS, result)
