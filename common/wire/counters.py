"""Counts of pushes and pulls, as parts of messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class Counters:
    """Counts of the master since the start on the state directory."""

    staleness: dict[int, int] = field(default_factory=dict)
    pushes: int = 0
    pulls: int = 0
    duplicate_pushes: int = 0
    fenced: int = 0
    malformed: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    refused_pushes: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class LayerPushes:
    """Pushes of a layer's slaves: staleness -> number applied, and the number refused."""

    layer: int = 0
    staleness: dict[int, int] = field(default_factory=dict)
    refused: int = 0


def add_counters(counters: Iterable[Counters]) -> Counters:
    """Add counts of several processes; CPU seconds and memory, which are of one process, are left out."""
    found = list(counters)
    counts = [
        each.name
        for each in fields(Counters)
        if each.name not in ("staleness", "cpu_seconds", "peak_rss_bytes")
    ]
    sums = {name: sum(getattr(each, name) for each in found) for name in counts}
    return Counters(staleness=dict(sum((Counter(each.staleness) for each in found), Counter())), **sums)


def add_layers(layers: Iterable[Iterable[LayerPushes]]) -> list[LayerPushes]:
    """Add the pushes of several processes, layer by layer."""
    found: dict[int, LayerPushes] = {}
    for each in (each for of_one in layers for each in of_one):
        before = found.get(each.layer, LayerPushes(each.layer))
        staleness = dict(Counter(before.staleness) + Counter(each.staleness))
        found[each.layer] = LayerPushes(each.layer, staleness, before.refused + each.refused)
    return [found[layer] for layer in sorted(found)]
