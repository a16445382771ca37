"""Two slaves and a master against back-propagation, DistributedDataParallel and pipelines on an equal job.

`python -m benchmarks cluster --mnist FOLDER --text FILE` writes results/cluster.json: samples/s of every way,
by turns, round by round; ratios within a round; the test error (of the language model, bits a token) after an
equal number of batches; and, of classifiers, batches to 97 % from a curve of every way. `--mbit N` runs on
links of N Mbit/s, `--delay-ms N` on machines N milliseconds apart, with every process on a machine of its own
(root, iproute2). `--table` prints the tables of docs/performance.md from the last results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import namespaces, records
from benchmarks.namespaces import Far, Network
from benchmarks.spread import format_spread, spread
from benchmarks.ways import TARGET_PERCENT, Curve, Job, Layerwise, Rival, Row, Way, batches_to
from common import strict_json
from common.errors import ConfigError

RESULTS = Path(__file__).parent / "results" / "cluster.json"
MNIST = {
    "mlp": ("network.model=mlp", f"network.options={{widths={[1024] * 8}}}"),
    "cnn": ("network.model=cnn", "network.options={channels=[16,16]}"),
}
# A language model: settings, and B.
GPT = (
    "network.model=gpt", "network.options={width=256,heads=4,blocks=8}", "data.context=64",
    "data.tokens=characters",
)  # fmt: skip
GPT_BATCH = 16
NETWORKS = (*MNIST, "gpt")
# Small networks for a trial of the benchmark itself, without MNIST.
DIGITS = {
    "mlp": ("network.model=mlp", f"network.options={{widths={[32] * 8}}}"),
    "cnn": ("network.model=cnn", "network.options={channels=[4,4]}"),
}
SCHEDULES, MICROBATCHES = ("gpipe", "1f1b"), (4, 8)
ONE, TWO, DDP = Rival("bp", processes=1), Rival("bp", processes=1, threads=2), Rival("ddp")
UNLOCKS, PROFILES = ("update", "delayed", "full", "local", "none"), ("light", "basic")
# Pushes of a layer's only replica serve evaluations and a successor alone, so they may be rare.
SELDOM = ("downpour.n_push=50",)
TARGETED = [Layerwise("update", profile, more=more) for more in ((), SELDOM) for profile in PROFILES]
OURS = [
    *TARGETED,
    Layerwise("update", "light", more=("decoupling.synthesizer_every=4",)),
    *(Layerwise(unlock, profile) for unlock in UNLOCKS[1:] for profile in PROFILES),
]
# On a slow link, tensors between layers may be narrower too.
SPARING = (*SELDOM, "cluster.wire=int8")
OURS_ON_LINKS = [
    *TARGETED,
    *(Layerwise("update", profile, more=SPARING) for profile in PROFILES),
    Layerwise("delayed", "basic"),
]
# Two threads compute what one does, and the profile does not change a message: such ways share a curve.
SAME_CURVE = {TWO.name: ONE.name} | {
    way.name: replace(way, profile="light").name for way in OURS if way.profile != "light"
}
# Baselines, and the ratio to each that `update` has to reach.
BASES = {"2 x one thread": 0.85, "DDP": 1.5, "better pipeline": 1.3}
WAITING, MASTER = 0.05, 0.15
# Figures of quality, of which a row has one, with the head of the table's column.
FIGURES = {"test_error_percent": "test error %", "bits_per_token": "bits a token"}


@dataclass(frozen=True)
class Link:
    """Link between two machines.

    Attributes:
        mbit: rate in Mbit/s; 0: unlimited.
        delay_ms: one-way delay in milliseconds, on links of unlimited rate.
    """

    mbit: int = 0
    delay_ms: int = 0

    @property
    def name(self) -> str:
        """Name of the link in results and tables."""
        return f"{self.mbit} Mbit/s" if self.mbit else f"{self.delay_ms} ms apart"

    def network(self, machines: int) -> Network:
        """Build a network of machines on equal links."""
        return Network(machines, self.mbit) if self.mbit else Far(machines, self.delay_ms / 1000)


Rounds = Sequence[Mapping[str, Row]]


def data_and_network(
    folder: Path | None, network: str, text: Path | None = None
) -> tuple[tuple[str, ...], int]:
    """Return the settings of data and network, and B: for MNIST, small nets on the digits, or a text.

    Raises:
        ConfigError: the folder does not exist, or no text was given for the language model.
    """
    if network == "gpt":
        if text is None:
            raise ConfigError("--network gpt: needs a text; give its file by --text FILE")
        return ("data.dataset=text", f"data.path={text.resolve()}", *GPT), GPT_BATCH
    settings = (MNIST if folder else DIGITS)[network]
    return (*records.mnist_settings(folder), *settings), 256 if folder else 64


def bases(turn: Mapping[str, Row]) -> dict[str, float]:
    """Return the samples per second of every baseline in a round."""
    rate = {name: float(row["samples_per_second"]) for name, row in turn.items()}
    return {
        "2 x one thread": 2 * rate[ONE.name],
        "DDP": rate[DDP.name],
        "better pipeline": max(rate[name] for name in SCHEDULES),
    }


def summarize(rounds: Rounds, curves: Mapping[str, Curve]) -> dict[str, Row]:
    """Summarize every way: quartiles of rates and ratios, error, batches to the target, waiting."""
    return {
        name: _summary([turn[name] for turn in rounds], rounds, curves.get(SAME_CURVE.get(name, name), []))
        for name in rounds[0]
    }


def _summary(rows: Sequence[Row], rounds: Rounds, curve: Curve) -> Row:
    rates = [float(row["samples_per_second"]) for row in rows]
    baselines = [bases(turn) for turn in rounds]
    summary: Row = {
        "samples_per_second": spread(rates, 1),
        "of": {
            base: spread([rate / each[base] for rate, each in zip(rates, baselines, strict=True)])
            for base in BASES
        },
        **{
            figure: spread([float(row[figure]) for row in rows], 2) for figure in FIGURES if figure in rows[0]
        },
        "batches_to_target": batches_to(curve, TARGET_PERCENT),
    }
    if "master_share" in rows[0]:
        summary["master_share"] = spread([float(row["master_share"]) for row in rows])
        waiting = [float(row["waiting_fraction"][row["bottleneck"]]) for row in rows]
        summary["waiting_at_bottleneck"] = spread(waiting)
    return summary


def table(result: Mapping[str, Any]) -> str:
    """Format the table of a network's ways."""
    (figure,) = (head for key, head in FIGURES.items() if key in result["rounds"][0][ONE.name])
    heads = ["way", "samples/s", *(f"of {base}" for base in BASES), figure, "batches to 97 %"]
    heads += ["seconds to 97 %", "waiting %", "master, % of a core"]
    lines: list[list[str]] = []
    for name, each in summarize(result["rounds"], result["curves"]).items():
        lines.append([f"`{name}`", *_cells(each, result["batch_size"])])
    return records.markdown(heads, lines)


def _cells(each: Row, batch_size: int) -> list[str]:
    batches, rate = each["batches_to_target"], each["samples_per_second"]
    ours = "master_share" in each
    return [
        format_spread(rate, ",.0f"),
        *(f"{each['of'][base]['median']:.2f}" for base in BASES),
        *(f"{each[figure]['median']:.2f}" for figure in FIGURES if figure in each),
        f"{batches:,.0f}" if batches else "-",
        f"{batches * batch_size / rate['median']:.1f}" if batches else "-",
        f"{100 * each['waiting_at_bottleneck']['median']:.1f}" if ours else "-",
        f"{100 * each['master_share']['median']:.1f}" if ours else "-",
    ]


def targets_table(result: Mapping[str, Any]) -> str:
    """Format the targets of `update` beside the measurements: median (quartiles)."""
    summary = summarize(result["rounds"], result["curves"])
    ours = {way.name: summary[way.name] for way in TARGETED if way.name in summary}
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
    return records.markdown(
        heads,
        [[what, limit, *(format_spread(each, ".3f") for each in values)] for what, limit, values in rows],
    )


def tables(results: Mapping[str, Any]) -> str:
    """Format every table of the results, under the name of the network and the link."""
    here = results["loopback"]
    sections = dict(here)
    for link, networks in results["links"].items():
        for name, each in networks.items():
            # A link delays the learning of a batch, but does not change the number of batches it takes.
            curves = here[name]["curves"] if name in here else {}
            sections[f"{name}, {link}"] = {**each, "curves": curves}
    return "\n\n".join(
        f"{name}:\n\n{table(each)}\n\n{targets_table(each)}" for name, each in sections.items()
    )


def last_tables(path: Path = RESULTS) -> str:
    """Format the tables of the last results.

    Raises:
        ConfigError: there are no results.
    """
    return tables(records.read(path))


def last_results(path: Path) -> dict[str, Any]:
    """Read earlier results, or return empty results."""
    return records.read(path) if path.exists() else {"loopback": {}, "links": {}}


def choose_microbatches(job: Job, link: Link | None) -> tuple[list[Way], dict[str, dict[int, float]]]:
    """Choose the faster number of microbatches for every schedule, and return the rates for every number."""
    chosen: list[Way] = []
    trials: dict[str, dict[int, float]] = {}
    for schedule in SCHEDULES:
        ways = [Rival(schedule, microbatches=count) for count in MICROBATCHES]
        rates = {way.microbatches: float(run_way(way, job, link)["samples_per_second"]) for way in ways}
        trials[schedule] = rates
        chosen.append(max(ways, key=lambda way: rates[way.microbatches]))
    return chosen, trials


def run_way(way: Way, job: Job, link: Link | None = None) -> Row:
    """Run a way on links or on loopback; print and return the result."""
    processes = way.processes if isinstance(way, Rival) else way.layers
    with link.network(processes + 1) if link else nullcontext() as network:
        row = way.run(job, network)
    main_values = {name: row[name] for name in ("samples_per_second", *FIGURES) if name in row}
    print(way.name, strict_json.encode(main_values or row), flush=True)
    return row


def measure(
    job: Job, rounds: int, evaluations: tuple[int, int], link: Link | None, write: Callable[[Row], None]
) -> None:
    """Run every way by turns, then a curve for every way; `write` receives the results after each round.

    Args:
        job: data, network, batch size and batches of a run.
        rounds: number of rounds.
        evaluations: batches of a curve, and the interval of its evaluations in batches.
        link: link between any two machines; None: all processes run on this one. Curves are measured here
            only.
        write: function that receives the network's results so far.
    """
    pipelines, trials = choose_microbatches(job, link)
    rivals: list[Way] = [ONE, DDP] if link else [ONE, TWO, DDP]
    ways = [*rivals, *pipelines, *(OURS_ON_LINKS if link else OURS)]
    result: Row = {"settings": job.settings, "batch_size": job.batch_size, "batches": job.batches}
    result |= {"microbatches": trials, "rounds": [], "curves": {}}
    for _ in range(rounds):
        result["rounds"].append({way.name: run_way(way, job, link) for way in ways})
        write(result)
    batches, every = evaluations
    curve = Job(job.settings, job.batch_size, batches, every)
    rates_alone = link or "test_error_percent" not in result["rounds"][0][ONE.name]
    for way in [] if rates_alone else [way for way in ways if way.name not in SAME_CURVE]:
        result["curves"][way.name] = run_way(way, curve)["curve"]
        write(result)


def main(arguments: Sequence[str]) -> None:
    """Run every way on every network, and write the results after every round."""
    chosen = _parser().parse_args(arguments)
    if chosen.table:
        print(last_tables(chosen.out))
        return
    results = last_results(chosen.out)
    link = Link(chosen.mbit, chosen.delay_ms) if chosen.mbit or chosen.delay_ms else None
    if chosen.mbit and chosen.delay_ms:
        raise ConfigError("--mbit and --delay-ms: give only one of the two")
    if link:
        namespaces.check()
    results["machine"] = records.machine()
    where = results["links"].setdefault(link.name, {}) if link else results["loopback"]
    for name in chosen.network or (NETWORKS if chosen.text else MNIST):
        job = Job(*data_and_network(chosen.mnist, name, chosen.text), chosen.batches)

        def write(result: Row, name: str = name) -> None:
            where[name] = {**result, "settings": records.without_data_path(result["settings"])}
            records.write(chosen.out, results)

        print(f"== {name}", flush=True)
        measure(job, chosen.rounds, (chosen.curve, chosen.every), link, write)
    print(tables(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cluster", description=__doc__)
    parser.add_argument(
        "--mnist", type=Path, help="folder of MNIST's files; without it, small nets on digits"
    )
    parser.add_argument("--text", type=Path, help="file of a text for the language model")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--batches", type=int, default=200, help="batches of each run of a round")
    parser.add_argument("--curve", type=int, default=600, help="largest number of batches of a curve")
    parser.add_argument("--every", type=int, default=25, help="batches between two evaluations of a curve")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="run this network only")
    parser.add_argument("--mbit", type=int, default=0, help="rate of links in Mbit/s, instead of loopback")
    parser.add_argument("--delay-ms", type=int, default=0, help="one-way delay of links, instead of loopback")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file for the results")
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    return parser
