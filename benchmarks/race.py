"""The race: seconds to the same loss, ours against what people run today, on links and under faults.

`python -m benchmarks race --mnist FOLDER --text FILE --out DIR` plays every way on loopback and 100 Mbit/s,
and selected ways on the other links, round by round; `--straggler` and `--kill` play the rows in which the
last process has a quarter of its speed, or is killed half-way; `--memory MiB` those with a limit on each
process. Each finished row is a file in DIR and is not played again. docs/performance.md has the rules.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import namespaces, records
from benchmarks.racing import cases, standings
from benchmarks.racing.cases import KILL, LINKS, NETWORKS, STRAGGLER, Case, Size
from benchmarks.racing.course import Course
from benchmarks.racing.playing import Bounds, play
from benchmarks.racing.rows import Row, kept_rows, read_row, tables
from benchmarks.racing.ways import ONE, RivalWay
from common import strict_json
from common.errors import ConfigError, RunFailedError

if TYPE_CHECKING:
    from benchmarks.racing.judging import Judge

REFERENCE_SECONDS = 3600.0
# Start of the processes, and the measuring of the looks, for the estimate of the hours.
OVERHEAD_SECONDS = 40.0


class Race:
    """Rows of a network in a folder, played and to play.

    Args:
        network: one of `NETWORKS`.
        size: of the network.
        out: folder for the rows.
    """

    def __init__(self, network: str, size: Size, out: Path) -> None:
        self._network, self._size, self._out = network, size, out
        self._judge: Judge | None = None

    def play(self, case: Case, turn: int) -> Row:
        """Play a row and keep it, or return the row that was kept.

        Raises:
            LayerwiseError: the row failed, or the folder has rows of another size.
        """
        file = case.file(self._out, turn)
        if file.exists():
            return self._checked(read_row(file))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            row = {
                **dataclasses.asdict(case),
                "round": turn,
                **play(case, self._size, self._bounds(case), folder),
            }
            row |= self._judged(case, Course(folder, 0)) if row["fits"] else {}
        row |= {"size": self._described(), "machine": records.machine()}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        records.write(part, row)
        part.rename(file)
        return row

    @property
    def target(self) -> float | None:
        """Target loss, from the first run of one thread; None before the run."""
        file = self._reference.file(self._out, 1)
        return standings.choose_target(self._checked(read_row(file))["curve"]) if file.exists() else None

    @property
    def longest(self) -> float:
        """Longest seconds of a row, the start and the measuring included; needs the reference."""
        return self._bounds(Case(self._network, ONE.name, "loopback", KILL)).seconds + OVERHEAD_SECONDS

    @property
    def _reference(self) -> Case:
        return Case(self._network, ONE.name, "loopback")

    def _bounds(self, case: Case) -> Bounds:
        size = self._size
        if case == self._reference:
            return Bounds(size.batches, REFERENCE_SECONDS, 0)
        target = self.target
        assert target is not None, "one thread's run is the first row of a plan"
        found = standings.reach(read_row(self._reference.file(self._out, 1))["curve"], target)
        if found is None:
            raise RunFailedError("one thread did not reach its own target; play the race with more batches")
        examples, seconds = found
        batches = math.ceil(standings.MOST_EXAMPLES * examples / size.batch_size)
        longest = max(standings.PATIENCE * seconds, standings.LEAST_SECONDS)
        return Bounds(batches, longest, round(examples / 2))

    def _judged(self, case: Case, course: Course) -> Row:
        from benchmarks.racing.judging import Judge, parts  # imports torch

        self._judge = self._judge or Judge(self._size)
        way, target = case.chosen, self.target
        ranks = parts(way.processes, way.method) if isinstance(way, RivalWay) else 1
        over: Callable[[Any], bool] = (
            (lambda _: False)
            if target is None or case == self._reference
            else lambda curve: standings.is_beyond(curve, target)
        )
        curve = self._judge.curve(course, ranks, over, estimate=case.way == "full")
        progress = course.progress()
        return {
            "curve": curve,
            "examples_per_second": standings.rate(progress),
            "examples": max((examples for examples, _ in progress), default=0),
        }

    def _described(self) -> Row:
        settings = records.without_data_path(self._size.settings)
        return {**dataclasses.asdict(self._size), "settings": settings}

    def _checked(self, row: Row) -> Row:
        if row["size"] != json.loads(strict_json.encode(self._described())):
            raise ConfigError(
                f"--out {self._out}: has rows of {self._network} of another size; give another folder"
            )
        return row


def run(chosen: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Play the missing rows."""
    events = [name for name in (STRAGGLER, KILL) if getattr(chosen, name)] or [""]
    plans = {
        network: [case for event in events for case in cases.plan(network, event, chosen.memory, chosen.only)]
        for network in _networks(chosen)
    }
    races = {
        network: Race(network, cases.size(network, chosen.mnist, chosen.text, tiny=chosen.tiny), chosen.out)
        for network in plans
    }
    if any(LINKS[case.link] for plan in plans.values() for case in plan):
        namespaces.check()
    for turn in range(1, chosen.rounds + 1):
        for network, plan in plans.items():
            for line in _play_round(races[network], plan, turn, chosen.out):
                say(line)


def _networks(chosen: argparse.Namespace) -> Sequence[str]:
    """Return the networks to play: as asked for, or else all with data."""
    if chosen.network:
        return list(chosen.network)
    given = {"mlp": chosen.mnist or chosen.tiny, "gpt": chosen.text}
    found = [network for network in NETWORKS if given[network]]
    if not found:
        raise ConfigError("give MNIST by --mnist FOLDER, a text by --text FILE, or both")
    return found


def _play_round(race: Race, plan: Sequence[Case], turn: int, out: Path) -> Iterator[str]:
    """Play a round of a plan, and yield a line for every row and for the work that is left."""
    left = [case for case in dict.fromkeys(plan) if not case.file(out, turn).exists()]
    for number, case in enumerate(left):
        if number == 1 or (number == 0 and race.target is not None):
            hours = (len(left) - number) * race.longest / 3600
            yield f"{case.network}, round {turn}: {len(left) - number} rows left, at most {hours:.1f} h"
        row = race.play(case, turn)
        target = race.target
        seconds = standings.seconds_to(row, target) if target is not None else None
        result = f"{seconds:.1f} s" if seconds else "not reached" if row["fits"] else "does not fit"
        yield f"{case.network} {turn} {case.name}: {result} ({row['wall_seconds']:.0f} s)"


def main(arguments: Sequence[str]) -> None:
    """Play the race, and print the tables of all rows in the folder."""
    chosen = _parser().parse_args(arguments)
    if chosen.figure:
        from benchmarks.racing.picture import draw

        rows = kept_rows(chosen.out)
        for network in chosen.network or rows or NETWORKS:
            draw(chosen.figure.with_stem(f"{chosen.figure.stem}-{network}"), rows.get(network, {}))
        return
    if not chosen.table:
        # Standard output is for the result alone.
        run(chosen, lambda line: print(line, file=sys.stderr if chosen.json else sys.stdout, flush=True))
    print(strict_json.encode(kept_rows(chosen.out)) if chosen.json else tables(chosen.out))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks race", description=__doc__)
    parser.add_argument("--network", action="append", choices=NETWORKS, help="play this network only")
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files, for mlp")
    parser.add_argument("--text", type=Path, help="file of a text, for gpt")
    parser.add_argument("--out", type=Path, required=True, help="folder for the rows, a file each")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument(
        "--only", action="append", default=[], metavar="WAY/LINK",
        help="play rows whose name matches, such as 'delayed/*' or '*/50ms', of all ways on all links",
    )  # fmt: skip
    parser.add_argument(
        "--straggler", action="store_true", help="the last process has a quarter of its speed"
    )
    parser.add_argument("--kill", action="store_true", help="the last process is killed half-way")
    parser.add_argument("--memory", type=int, default=0, metavar="MiB", help="most data of each process")
    parser.add_argument("--tiny", action="store_true", help="small networks, for a trial of the race itself")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, in place of tables")
    parser.add_argument("--table", action="store_true", help="print the tables of the rows, and play nothing")
    parser.add_argument(
        "--figure", type=Path, help="draw loss over seconds to FIGURE, with the network's name; play nothing"
    )
    return parser
