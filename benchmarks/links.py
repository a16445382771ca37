"""Profiles and unlocks on loopback and on links of 1 Gbit/s and 100 Mbit/s: error, throughput, bytes.

`python -m benchmarks links --mnist FOLDER` writes results/links.json; `--table` prints the table of
docs/results.md. On a link every process is on a machine of its own (`benchmarks.namespaces`): the master with
the evaluator, and three slaves. All processes are the command line's; the profiles take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import namespaces, records
from benchmarks.by_hand import Loopback, Machines, ManualCluster
from benchmarks.namespaces import Network

RESULTS = Path(__file__).parent / "results" / "links.json"
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
        run_settings = (*COMMON, *settings, *case.settings)
        cluster = stack.enter_context(ManualCluster(network, folder, run_settings, LAYERS))
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
