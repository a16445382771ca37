"""Messages about a change of the number of replicas, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive batches, from `start` on, that R replicas of each layer train."""

    start: int = 0
    replicas: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Promise:
    """Answer of a slave to the question `question`: no batch from `batch` on begins before the next order."""

    question: int = 0
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Resizing:
    """Change that is under way: R by layer, number of missing slaves, first batch once that is known."""

    replicas: list[int] = field(default_factory=list)
    missing: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class ResizeRequest:
    """Request for another number of replicas: R of every layer, or R by layer."""

    replicas: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ResizeReply:
    """The present R by layer, and the change that the master will make; without one the run stays so."""

    replicas: list[int] = field(default_factory=list)
    resizing: Resizing = field(default_factory=Resizing)
