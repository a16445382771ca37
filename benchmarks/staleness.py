"""Error and throughput of Downpour by staleness rule, with all replicas alike and with one slowed four times.

`python -m benchmarks staleness --mnist FOLDER`: three layers, two replicas each, accrued gradients and the
master's Adagrad; the slowed one gets a quarter of the processor time that it took before, by signals.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from common.errors import UnreachableError
from deploy.reader import Reader

RESULTS = Path(__file__).parent / "results" / "staleness.json"
RULES = ("any", "bound", "scale", "compensate")
SETTINGS = (
    "network.layers=3",
    "run.batch_size=256",
    "run.evaluate_every=100000",
    "downpour.replicas=2",
    "downpour.push=gradient",
)
PERIOD_SECONDS, SLOWED = 0.01, 4


class Watched:
    """Reads what share of a core a run's first slave takes while it trains, and may hold it to a smaller one.

    A duty cycle would not do: on a machine with more processes than cores, one that is stopped three quarters
    of the time catches up in the last.

    Attributes:
        share: of a core, over the training.
    """

    def __init__(self, train: subprocess.Popen[str], folder: Path, allowed: float | None) -> None:
        self.share = 0.0
        self._train = psutil.Process(train.pid)
        self._address = folder / "state" / "address"
        self._allowed = allowed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        slave = self._training_slave()
        if slave is None:
            return
        began, before, stopped = time.monotonic(), _cpu_seconds(slave), False
        try:
            while not self._stop.wait(PERIOD_SECONDS):
                self.share = (_cpu_seconds(slave) - before) / (time.monotonic() - began)
                if self._allowed is not None and stopped != (self.share > self._allowed):
                    stopped = not stopped
                    slave.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)
        except psutil.NoSuchProcess:
            return

    def _training_slave(self) -> psutil.Process | None:
        """The first slave, once every layer has its own and trains."""
        while not self._stop.wait(0.1):
            if not self._address.exists():
                continue
            address = self._address.read_text(encoding="utf-8")
            with Reader(address) as reader, contextlib.suppress(UnreachableError):
                if reader.status(1.0).state == "training":
                    return next(child for child in self._train.children() if "slave" in child.cmdline())
        return None

    def end(self) -> None:
        """Let it go."""
        self._stop.set()
        self._thread.join()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measured(rule: str, allowed: float | None, batches: int, data: list[str]) -> dict[str, Any]:
    """One run's summary, and its first slave's share of a core."""
    settings = [*SETTINGS, *data, f"run.batches={batches}", f"downpour.staleness={rule}"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        train = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "train", "--run-dir", folder, "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        watched = Watched(train, Path(folder), allowed)
        try:
            out, _ = train.communicate()
        finally:
            watched.end()
    if train.returncode:
        raise SystemExit(f"train ended with {train.returncode}")
    summary: dict[str, Any] = json.loads(out)
    return {**summary, "share": watched.share}


def row(rule: str, slowed: bool, summary: dict[str, Any]) -> dict[str, Any]:
    """What of a summary is compared."""
    kept = ("test_error_percent", "samples_per_second", "staleness", "pushes", "lost_batches", "share")
    return {"rule": rule, "slowed": slowed, **{name: summary[name] for name in kept}}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = ["| rule | one replica slowed 4x | test error % | samples/s | staleness p50, p99, max |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for each in rows:
        staleness = ", ".join(str(each["staleness"][name]) for name in ("p50", "p99", "max"))
        lines.append(
            f"| {each['rule']} | {'yes' if each['slowed'] else 'no'} | {each['test_error_percent']:.2f} | "
            f"{each['samples_per_second']:,.0f} | {staleness} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Run all rules, alternating, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks staleness", description=__doc__)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files; else the digits are used")
    parser.add_argument("--batches", type=int, default=3000)
    chosen = parser.parse_args(arguments)
    data = ["data.dataset=mnist", f"data.path={chosen.mnist}"] if chosen.mnist else ["run.batch_size=64"]
    rows: list[dict[str, Any]] = []
    for slowed in (False, True):
        for rule in RULES:
            alike = next((each for each in rows if each["rule"] == rule), None)
            allowed = alike["share"] / SLOWED if alike else None
            rows.append(row(rule, slowed, measured(rule, allowed, chosen.batches, data)))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    dataset = "mnist" if chosen.mnist else "digits"
    result = {"dataset": dataset, "batches": chosen.batches, "settings": SETTINGS, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
