"""Cost of TLS: pushes and pulls against TLS over a raw socket, and a cluster with and without certificates.

`python -m benchmarks tls --mnist FOLDER` writes results/tls.json. Transfers of 64 MiB go by layerwise and by
Python's `ssl` on a plain socket, with certificates of one authority and contexts of one kind, so that both
agree on one cipher, and by both in the clear; the ways take turns, round by round. The cluster is the MLP of
`benchmarks cluster` with K = 2 and `update`: every round trains it once with and once without TLS in each
profile. Ratios are taken within a round. `--table` prints the tables of docs/performance.md.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks import records, transfer
from benchmarks.cluster import PROFILES, data_and_network, run_way
from benchmarks.spread import format_spread, spread
from benchmarks.transfer import ProcessPair, Rounds
from benchmarks.ways import Job, Layerwise
from common.net.access import Role
from common.net.identity import find_identity
from deploy.certificates import making
from deploy.certificates.folders import MASTER, slave_name

RESULT = Path(__file__).parent / "results" / "tls.json"
SIZE = "64 MiB"
# Transfers by way: the program, and whether it has certificates.
WAYS = {
    "layerwise, TLS": ("layerwise", True),
    "raw TLS": ("tcp", True),
    "layerwise": ("layerwise", False),
    "raw TCP": ("tcp", False),
}
# What is asked: speed as a share of raw TLS, and samples/s as a share of those in the clear.
OF_RAW_TLS, OF_CLEAR = 0.5, 0.97


def measure_transfers(rounds: int) -> dict[str, Any]:
    """Push and pull by every way, by turns."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        certificates = folder / "tls"
        making.make(certificates, making.plan([], slaves=1), None, days=1)
        ways = {}
        for name, (program, secured) in WAYS.items():
            own = folder / name.replace(" ", "-")
            own.mkdir()
            ways[name] = ProcessPair(program, own, stack, certificates if secured else None)
        measured = transfer.measure(ways, [SIZE], rounds)
        return {"rounds": rounds, "cipher": agreed_cipher(certificates), "cases": summarize(measured)}


def summarize(measured: Mapping[str, Mapping[str, Rounds]]) -> dict[str, Any]:
    """Compute the times of every way, and the speed of layerwise over TLS as a share of the other ways'."""
    cases = {}
    for case, by_way in measured.items():
        times = {name: rounds.milliseconds for name, rounds in by_way.items()}
        ours, *others = WAYS
        cases[case] = {
            "milliseconds": {name: spread(each) for name, each in times.items()},
            "of": {
                name: spread([other / own for other, own in zip(times[name], times[ours], strict=True)])
                for name in others
            },
        }
    return cases


def agreed_cipher(certificates: Path) -> str:
    """Return version and cipher on which the two ends of every way over TLS agree."""
    serving, calling = (find_identity(certificates / name) for name in (MASTER, slave_name(1)))
    assert serving is not None
    assert calling is not None
    here, there = socket.socketpair()

    def serve() -> None:
        with serving.serve().context().wrap_socket(there, server_side=True) as end:
            end.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with calling.call(Role.MASTER).context().wrap_socket(here) as end:
        found = end.cipher()
    thread.join()
    assert found is not None
    return f"{found[1]} {found[0]}"


def measure_cluster(job: Job, rounds: int) -> dict[str, Any]:
    """Train with and without TLS in every round and profile, and take the ratios of the rates."""
    rates: dict[str, dict[str, list[float]]] = {profile: {"clear": [], "tls": []} for profile in PROFILES}
    for turn in range(rounds):
        for profile in PROFILES:
            # Each side goes first in every second round: a warm machine favours neither.
            for name in ("clear", "tls")[:: 1 if turn % 2 else -1]:
                row = run_way(Layerwise("update", profile, tls=name == "tls"), job)
                rates[profile][name].append(float(row["samples_per_second"]))
    return {
        "batches": job.batches,
        "batch_size": job.batch_size,
        "profiles": {profile: {**each, "ratio": ratio(each)} for profile, each in rates.items()},
    }


def ratio(rates: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Compute the samples/s with TLS as a share of those without, from pairs within a round."""
    return spread([tls / clear for clear, tls in zip(rates["clear"], rates["tls"], strict=True)])


def tables(result: Mapping[str, Any]) -> str:
    """Format the tables of transfers and of the cluster: medians (quartiles)."""
    parts = []
    if transfers := result.get("transfer"):
        lines = []
        for case, numbers in transfers["cases"].items():
            times = [format_spread(each, ".0f") for each in numbers["milliseconds"].values()]
            lines.append([case, *times, format_spread(numbers["of"]["raw TLS"], ".2f"), str(OF_RAW_TLS)])
        parts.append(records.markdown(["", *(f"{way}, ms" for way in WAYS), "of raw TLS", "asked"], lines))
    if cluster := result.get("cluster"):
        lines = [
            [
                f"`{profile}`",
                *(format_spread(spread(each[name]), ",.0f") for name in ("clear", "tls")),
                format_spread(each["ratio"], ".3f"),
                str(OF_CLEAR),
            ]
            for profile, each in cluster["profiles"].items()
        ]
        parts.append(records.markdown(["", "samples/s in the clear", "with TLS", "ratio", "asked"], lines))
    return "\n\n".join(parts)


@click.command()
@click.option("--mnist", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder of MNIST's files; without it, a small net on the digits.")  # fmt: skip
@click.option("--transfers", default=15, show_default=True, help="Rounds of transfers; 0: none.")
@click.option("--rounds", default=8, show_default=True, help="Paired rounds of the cluster; 0: none.")
@click.option("--batches", default=200, show_default=True, help="Batches of a run of the cluster.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, help="File for the results.")
@click.option("--table", is_flag=True, help="Print the tables of the last results.")
def command(mnist: Path | None, transfers: int, rounds: int, batches: int, out: Path, table: bool) -> None:
    """Measure what TLS costs, print the tables and write the results."""
    if table:
        print(tables(records.read(out)))
        return
    settings, batch_size = data_and_network(mnist, "mlp")
    result: dict[str, Any] = {"machine": records.machine()}
    if transfers:
        result["transfer"] = measure_transfers(transfers)
        records.write(out, result)
    if rounds:
        result["cluster"] = measure_cluster(Job(settings, batch_size, batches), rounds)
        result["cluster"]["settings"] = records.without_data_path(settings)
        records.write(out, result)
    print(tables(result))


def main(arguments: Sequence[str] = ()) -> None:
    """Run the command."""
    command.main(list(arguments), standalone_mode=False)
