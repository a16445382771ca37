"""Rows of the race: networks, links and what happens on the way; which rows are played by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks import records
from benchmarks.cluster import MNIST, Link
from benchmarks.racing.ways import ONE, SELECTED, WAYS, Way
from common.errors import ConfigError

LINKS: dict[str, Link | None] = {
    "loopback": None,
    "100mbit": Link(mbit=100),
    "1gbit": Link(mbit=1000),
    "10ms": Link(delay_ms=10),
    "50ms": Link(delay_ms=50),
}
# Links of every way; on the others the selected ways run.
FOR_ALL = ("loopback", "100mbit")
# Events of a row: what happens to the last process of the way.
STRAGGLER, KILL = "straggler", "kill"
# Smaller than the cluster's, whose rows would take five minutes.
GPT = (
    "network.model=gpt", "network.options={width=128,heads=4,blocks=8}", "data.context=64",
    "data.tokens=characters",
)  # fmt: skip
CLIPPED = ("optimizer.name=adamw", "optimizer.clip_norm=1.0")


@dataclass(frozen=True)
class Size:
    """Network and lengths of its rows.

    Attributes:
        settings: data, network and optimizer, the same for every way.
        batch_size: B.
        batches: batches of one thread's run, which sets the target.
        every: batches between two looks at the weights.
        examples: test examples that measure the loss, from the first on.
        checkpoint: batches between two checkpoints of a rival, in rows with a kill.
    """

    settings: tuple[str, ...]
    batch_size: int
    batches: int
    every: int
    examples: int
    checkpoint: int = 25


NETWORKS = ("mlp", "gpt")


def size(network: str, mnist: Path | None, text: Path | None, *, tiny: bool) -> Size:
    """Return the size of a network; `tiny` is for a trial of the race itself.

    Raises:
        ConfigError: the data is not given, or does not exist.
    """
    if network == "mlp":
        if tiny:
            widths = "network.options={widths=[32,32,32,32],batch_norm=true}"
            return Size(("network.model=mlp", widths), 64, 80, 10, 200, checkpoint=10)
        if mnist is None:
            raise ConfigError("--network mlp: needs MNIST; give its folder by --mnist FOLDER")
        return Size((*records.mnist_settings(mnist), *MNIST["mlp"]), 256, 400, 20, 2000)
    if text is None or not text.is_file():
        raise ConfigError(f"--text {text or ''}: is not a file; give the file of a text, for --network gpt")
    data = ("data.dataset=text", f"data.path={text.resolve()}")
    if tiny:
        small = ("network.model=gpt", "network.options={width=16,heads=2,blocks=4}", "data.context=16")
        return Size((*data, *small, *CLIPPED), 16, 80, 10, 50, checkpoint=10)
    return Size((*data, *GPT, *CLIPPED), 16, 400, 20, 256)


@dataclass(frozen=True)
class Case:
    """A row: way, link and event.

    Attributes:
        memory: most MiB of data that a process of the way may have; 0: any.
    """

    network: str
    way: str
    link: str
    event: str = ""
    memory: int = 0

    @property
    def chosen(self) -> Way:
        """The way."""
        return WAYS[self.way]

    @property
    def place(self) -> str:
        """Name of link and event; rows of the same place are compared."""
        memory = f"{self.memory}MiB" if self.memory else ""
        return "+".join(part for part in (self.link, self.event, memory) if part)

    @property
    def name(self) -> str:
        """Name of the row: WAY/PLACE."""
        return f"{self.way}/{self.place}"

    def matches(self, pattern: str) -> bool:
        """Whether a pattern of --only names the row, by WAY/PLACE or by WAY/LINK."""
        return any(fnmatchcase(name, pattern) for name in (self.name, f"{self.way}/{self.link}"))

    def file(self, out: Path, turn: int) -> Path:
        """Return the file of the row in a round."""
        return out / f"{self.network}-{turn}" / f"{self.way}--{self.place}.json"


def plan(network: str, event: str = "", memory: int = 0, only: Sequence[str] = ()) -> list[Case]:
    """List the rows to play; one thread on loopback, which sets the target, comes first.

    Args:
        network: one of `NETWORKS`.
        event: event of the rows; "" for none.
        memory: limit of memory in MiB; 0 for none.
        only: patterns of names; with them, every way on every link can be chosen.

    Raises:
        ConfigError: a pattern matches no row.
    """
    every = [Case(network, way, link, event, memory) for link in LINKS for way in _ways(link)]
    for pattern in only:
        if not any(case.matches(pattern) for case in every):
            raise ConfigError(
                f"--only {pattern}: matches no row; a row is WAY/LINK, as {ONE.name}/loopback; ways are "
                f"{', '.join(WAYS)}; links are {', '.join(LINKS)}"
            )
    if only:
        chosen = [case for case in every if any(map(case.matches, only))]
    else:
        chosen = [case for case in every if _by_default(case)]
    first = Case(network, ONE.name, "loopback")
    return [first, *(case for case in chosen if case != first)]


def _ways(link: str) -> list[str]:
    """Return the ways of a link; a way of a single machine runs on loopback alone."""
    return [name for name, way in WAYS.items() if way.processes > 1 or link == "loopback"]


def _by_default(case: Case) -> bool:
    if case.event:
        return case.link == "loopback" and case.way in SELECTED
    if case.memory:
        return case.link in FOR_ALL and case.way in SELECTED
    return case.link in FOR_ALL or case.way in SELECTED
