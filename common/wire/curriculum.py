"""Messages about the levels of a run's batches, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Levels of the batches before `decided`: the first batch of each; empty where no example gets harder."""

    starts: list[int] = field(default_factory=list)
    decided: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """Loss of a replica of layer K in a block that the replica is through: sum in bits, number of answers."""

    block: int = 0
    bits: float = 0.0
    answers: int = 0
