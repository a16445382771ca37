"""Ways of the race, and the only place that chooses their settings. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

# Settings of every way of ours, on every link. They were chosen for 100 Mbit/s before the race: narrow
# messages, and pushes, and backups of Adam's moments, of which a link of that rate carries one in a tenth of
# the time between two.
CHOSEN = (
    "cluster.profile=basic", "cluster.wire=int8", "cluster.misses=3", "cluster.backup_steps=600",
    "downpour.n_push=25", "downpour.precision=int8",
)  # fmt: skip
# Replicas also fetch.
REPLICATED = ("downpour.n_fetch=25",)


@dataclass(frozen=True)
class RivalWay:
    """A way of `benchmarks.racing.rival`.

    Attributes:
        name: name in results.
        kind: ways of a kind compete for one place on the links that are not for all ways.
        method: one of `benchmarks.racing.rival.METHODS`.
        number: H of ways that meet every H steps, microbatches of a schedule, batches in flight.
        processes: number of ranks.
        threads: torch's threads of each.
    """

    name: str
    kind: str
    method: str
    number: int = 0
    processes: int = 2
    threads: int = 1

    ours = False


@dataclass(frozen=True)
class OurWay:
    """A way of layerwise: a master, and a slave for every replica of every layer.

    Attributes:
        name: name in results.
        settings: settings beside `CHOSEN`, section.key=value.
        layers: K.
        replicas: R of every layer.
    """

    name: str
    settings: tuple[str, ...]
    layers: int = 2
    replicas: int = 1

    ours = True
    kind = "ours"
    threads = 1

    @property
    def processes(self) -> int:
        """Number of slaves."""
        return self.layers * self.replicas

    def all_settings(self) -> list[str]:
        """Return every setting of the way, section.key=value."""
        sizes = (f"network.layers={self.layers}", f"downpour.replicas={self.replicas}")
        return [*CHOSEN, *(REPLICATED if self.replicas > 1 else ()), *sizes, *self.settings]


Way = RivalWay | OurWay

ONE = RivalWay("one-thread", "plain", "plain", processes=1)
TWO = RivalWay("all-threads", "plain", "plain", processes=1, threads=2)
RIVALS = (
    ONE,
    TWO,
    RivalWay("one-thread-nadam", "plain", "nadam", processes=1),
    RivalWay("ddp", "data parallel", "ddp"),
    RivalWay("local-sgd-10", "local", "local-sgd", 10),
    RivalWay("local-sgd-50", "local", "local-sgd", 50),
    RivalWay("diloco-20", "local", "diloco", 20),
    RivalWay("diloco-50", "local", "diloco", 50),
    RivalWay("1f1b-4", "pipeline", "1f1b", 4),
    RivalWay("1f1b-8", "pipeline", "1f1b", 8),
    RivalWay("zero-bubble-4", "pipeline", "zero-bubble", 4),
    RivalWay("zero-bubble-8", "pipeline", "zero-bubble", 8),
    RivalWay("asyncpp-2", "asynchronous", "asyncpp", 2),
    RivalWay("asyncpp-4", "asynchronous", "asyncpp", 4),
)
DELAYED = "decoupling.unlock=delayed"
PROXIMAL = (DELAYED, "decoupling.correction=proximal")
OURS = (
    OurWay("update", ("decoupling.unlock=update",)),
    OurWay("delayed", PROXIMAL),
    OurWay("delayed-stored", (DELAYED, "decoupling.backward=stored")),
    OurWay("full", ("decoupling.unlock=full",)),
    OurWay("local", ("decoupling.unlock=local",)),
    OurWay("none", ("decoupling.unlock=none",)),
    OurWay("replicas", ("decoupling.unlock=none",), layers=1, replicas=2),
    OurWay("product", PROXIMAL, replicas=2),
)
WAYS: dict[str, Way] = {way.name: way for way in (*RIVALS, *OURS)}
# Ways on links and under faults that are not for all: one rival of each kind, and four of ours.
SELECTED = ("ddp", "diloco-50", "zero-bubble-4", "asyncpp-4", "update", "delayed", "local", "full")
