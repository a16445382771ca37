"""Two slaves and a master against back-propagation, DistributedDataParallel and pipelines on the same job.

`python -m benchmarks cluster --mnist FOLDER` writes results/cluster.json: samples/s of every way, by turns,
round by round; ratios within a round; the test error after as many batches; and batches to 97 % from a curve
of each way. With `--mbit N`, the same on links of N Mbit/s, with `--delay-ms N` on machines N milliseconds
apart, every process on a machine of its own (root, iproute2). `--table` prints docs/performance.md's tables
of the last results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import kept, namespaces
from benchmarks.namespaces import Far, Network
from benchmarks.spread import shown, spread
from benchmarks.ways import TARGET_PERCENT, Curve, Job, Layerwise, Rival, Row, Way, batches_to
from common.errors import ConfigError

RESULTS = Path(__file__).parent / "results" / "cluster.json"
MNIST = {
    "mlp": ("network.model=mlp", f"network.options={{widths={[1024] * 8}}}"),
    "cnn": ("network.model=cnn", "network.options={channels=[16,16]}"),
}
# Without MNIST it is the benchmark itself that is tried.
DIGITS = {
    "mlp": ("network.model=mlp", f"network.options={{widths={[32] * 8}}}"),
    "cnn": ("network.model=cnn", "network.options={channels=[4,4]}"),
}
SCHEDULES, MICROBATCHES = ("gpipe", "1f1b"), (4, 8)
ONE, TWO, DDP = Rival("bp", processes=1), Rival("bp", processes=1, threads=2), Rival("ddp")
UNLOCKS, PROFILES = ("update", "delayed", "full", "local", "none"), ("light", "basic")
# A sole replica's pushes are for evaluations and a successor: they may come seldom.
SELDOM = ("downpour.n_push=50",)
ASKED = [Layerwise("update", profile, more=more) for more in ((), SELDOM) for profile in PROFILES]
OURS = [
    *ASKED,
    Layerwise("update", "light", more=("decoupling.synthesizer_every=4",)),
    *(Layerwise(unlock, profile) for unlock in UNLOCKS[1:] for profile in PROFILES),
]
# On a slow link, what goes between layers can be narrower, too.
SPARING = (*SELDOM, "cluster.wire=int8")
OURS_ON_LINKS = [
    *ASKED,
    *(Layerwise("update", profile, more=SPARING) for profile in PROFILES),
    Layerwise("delayed", "basic"),
]
# Two threads compute what one does, and a profile says who carries a message, not what is in it.
SAME_CURVE = {TWO.name: ONE.name} | {
    way.name: replace(way, profile="light").name for way in OURS if way.profile != "light"
}
# What a way is held against, and what `update` is asked to reach of it.
BASES = {"2 x one thread": 0.85, "DDP": 1.5, "better pipeline": 1.3}
WAITING, MASTER = 0.05, 0.15


@dataclass(frozen=True)
class Link:
    """What lies between two machines.

    Attributes:
        mbit: in Mbit/s.
        delay_ms: instead of a rate, how far apart they are, in milliseconds.
    """

    mbit: int = 0
    delay_ms: int = 0

    @property
    def name(self) -> str:
        """As results and tables say it."""
        return f"{self.mbit} Mbit/s" if self.mbit else f"{self.delay_ms} ms apart"

    def network(self, machines: int) -> Network:
        """So many machines on such links."""
        return Network(machines, self.mbit) if self.mbit else Far(machines, self.delay_ms / 1000)


Rounds = Sequence[Mapping[str, Row]]


def ground(folder: Path | None, network: str) -> tuple[tuple[str, ...], int]:
    """The settings of data and network, and B: of MNIST in a folder; without one, small ones on the digits.

    Raises:
        ConfigError: it is no folder.
    """
    settings = (MNIST if folder else DIGITS)[network]
    return (*kept.mnist(folder), *settings), 256 if folder else 64


def bases(turn: Mapping[str, Row]) -> dict[str, float]:
    """Samples a second of what a way is held against, in one round."""
    rate = {name: float(row["samples_per_second"]) for name, row in turn.items()}
    return {
        "2 x one thread": 2 * rate[ONE.name],
        "DDP": rate[DDP.name],
        "better pipeline": max(rate[name] for name in SCHEDULES),
    }


def summarized(rounds: Rounds, curves: Mapping[str, Curve]) -> dict[str, Row]:
    """Of every way: median and quartiles of its rate and of its ratios, and what the rest says of it."""
    return {
        name: _summary([turn[name] for turn in rounds], rounds, curves.get(SAME_CURVE.get(name, name), []))
        for name in rounds[0]
    }


def _summary(rows: Sequence[Row], rounds: Rounds, curve: Curve) -> Row:
    rates = [float(row["samples_per_second"]) for row in rows]
    held = [bases(turn) for turn in rounds]
    found: Row = {
        "samples_per_second": spread(rates, 1),
        "of": {
            base: spread([rate / each[base] for rate, each in zip(rates, held, strict=True)])
            for base in BASES
        },
        "test_error_percent": spread([float(row["test_error_percent"]) for row in rows], 2),
        "batches_to_target": batches_to(curve, TARGET_PERCENT),
    }
    if "master_share" in rows[0]:
        found["master_share"] = spread([float(row["master_share"]) for row in rows])
        waiting = [float(row["waiting_fraction"][row["bottleneck"]]) for row in rows]
        found["waiting_at_bottleneck"] = spread(waiting)
    return found


def table(result: Mapping[str, Any]) -> str:
    """A network's ways."""
    heads = ["way", "samples/s", *(f"of {base}" for base in BASES), "test error %", "batches to 97 %"]
    heads += ["seconds to 97 %", "waiting %", "master, % of a core"]
    lines: list[list[str]] = []
    for name, each in summarized(result["rounds"], result["curves"]).items():
        lines.append([f"`{name}`", *_cells(each, result["batch_size"])])
    return kept.markdown(heads, lines)


def _cells(each: Row, batch_size: int) -> list[str]:
    batches, rate = each["batches_to_target"], each["samples_per_second"]
    ours = "master_share" in each
    return [
        shown(rate, ",.0f"),
        *(f"{each['of'][base]['median']:.2f}" for base in BASES),
        f"{each['test_error_percent']['median']:.2f}",
        f"{batches:,.0f}" if batches else "-",
        f"{batches * batch_size / rate['median']:.1f}" if batches else "-",
        f"{100 * each['waiting_at_bottleneck']['median']:.1f}" if ours else "-",
        f"{100 * each['master_share']['median']:.1f}" if ours else "-",
    ]


def asked(result: Mapping[str, Any]) -> str:
    """What is asked of `update`, and what there is: median (quartiles)."""
    found = summarized(result["rounds"], result["curves"])
    ours = {way.name: found[way.name] for way in ASKED if way.name in found}
    rows = [
        (f"of {base}", f">= {least}", [each["of"][base] for each in ours.values()])
        for base, least in BASES.items()
    ]
    for what, limit, key in (
        ("waiting at the bottleneck layer", f"< {WAITING}", "waiting_at_bottleneck"),
        ("master's share of a core", f"< {MASTER} in basic", "master_share"),
    ):
        rows.append((what, limit, [each[key] for each in ours.values()]))
    heads = ["", "asked", *(f"`{name}`" for name in ours)]
    return kept.markdown(
        heads, [[what, limit, *(shown(each, ".3f") for each in values)] for what, limit, values in rows]
    )


def tables(results: Mapping[str, Any]) -> str:
    """Every table of the results, each under what it is of."""
    here = results["loopback"]
    named = dict(here)
    for link, networks in results["links"].items():
        for name, each in networks.items():
            # A link changes when a batch is learned, not how many it takes.
            curves = here[name]["curves"] if name in here else {}
            named[f"{name}, {link}"] = {**each, "curves": curves}
    return "\n\n".join(f"{name}:\n\n{table(each)}\n\n{asked(each)}" for name, each in named.items())


def last_tables(path: Path = RESULTS) -> str:
    """The tables of the last results.

    Raises:
        ConfigError: there are none.
    """
    return tables(kept.read(path))


def last_results(path: Path) -> dict[str, Any]:
    """What was written last; nothing at first."""
    return kept.read(path) if path.exists() else {"loopback": {}, "links": {}}


def better(job: Job, link: Link | None) -> tuple[list[Way], dict[str, dict[int, float]]]:
    """Each schedule with the number of microbatches that is faster, and the rates with each."""
    chosen: list[Way] = []
    trials: dict[str, dict[int, float]] = {}
    for schedule in SCHEDULES:
        ways = [Rival(schedule, microbatches=count) for count in MICROBATCHES]
        rates = {way.microbatches: float(ran(way, job, link)["samples_per_second"]) for way in ways}
        trials[schedule] = rates
        chosen.append(max(ways, key=lambda way: rates[way.microbatches]))
    return chosen, trials


def ran(way: Way, job: Job, link: Link | None = None) -> Row:
    """Run a way, on links or on this machine, and say what came of it."""
    processes = way.processes if isinstance(way, Rival) else way.layers
    with link.network(processes + 1) if link else nullcontext() as network:
        row = way.run(job, network)
    shown = {name: row[name] for name in ("samples_per_second", "test_error_percent") if name in row}
    print(way.name, json.dumps(shown or row), flush=True)
    return row


def measured(
    job: Job, rounds: int, evaluations: tuple[int, int], link: Link | None, write: Callable[[Row], None]
) -> None:
    """Every way by turns, then a curve of each; `write` takes what there is after each round.

    Args:
        job: of a network.
        rounds: how many.
        evaluations: of the curves: their batches, and every how many.
        link: between any two machines; None: all is on this one. There are no curves on links.
        write: takes the network's results so far.
    """
    pipelines, trials = better(job, link)
    rivals: list[Way] = [ONE, DDP] if link else [ONE, TWO, DDP]
    ways = [*rivals, *pipelines, *(OURS_ON_LINKS if link else OURS)]
    result: Row = {"settings": job.settings, "batch_size": job.batch_size, "batches": job.batches}
    result |= {"microbatches": trials, "rounds": [], "curves": {}}
    for _ in range(rounds):
        result["rounds"].append({way.name: ran(way, job, link) for way in ways})
        write(result)
    batches, every = evaluations
    curve = Job(job.settings, job.batch_size, batches, every)
    for way in [] if link else [way for way in ways if way.name not in SAME_CURVE]:
        result["curves"][way.name] = ran(way, curve)["curve"]
        write(result)


def main(arguments: Sequence[str]) -> None:
    """Run everything, and write the results as they come."""
    chosen = _parser().parse_args(arguments)
    if chosen.table:
        print(last_tables(chosen.out))
        return
    results = last_results(chosen.out)
    link = Link(chosen.mbit, chosen.delay_ms) if chosen.mbit or chosen.delay_ms else None
    if chosen.mbit and chosen.delay_ms:
        raise ConfigError("--mbit and --delay-ms: give one of them; a link is slow or long here")
    if link:
        namespaces.check()
    results["machine"] = kept.machine()
    where = results["links"].setdefault(link.name, {}) if link else results["loopback"]
    for name in chosen.network or MNIST:
        job = Job(*ground(chosen.mnist, name), chosen.batches)

        def write(result: Row, name: str = name) -> None:
            where[name] = {**result, "settings": kept.settings_of(result["settings"])}
            kept.write(chosen.out, results)

        print(f"== {name}", flush=True)
        measured(job, chosen.rounds, (chosen.curve, chosen.every), link, write)
    print(tables(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cluster", description=__doc__)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files; else small nets on the digits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=200, help="of each run of a round")
    parser.add_argument("--curve", type=int, default=600, help="batches of a curve, at most")
    parser.add_argument("--every", type=int, default=25, help="batches between two evaluations of a curve")
    parser.add_argument("--network", action="append", choices=tuple(MNIST), help="only this one")
    parser.add_argument("--mbit", type=int, default=0, help="instead of loopback, links of so many Mbit/s")
    parser.add_argument("--delay-ms", type=int, default=0, help="instead, machines so far apart")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    return parser
