"""Section [time]: windows of streams, and the gradient at a window's end, for recurrent networks."""

from __future__ import annotations

from dataclasses import dataclass

from common.config.settings import choice, key
from common.registry import Registry, Row

TIMES = Registry(
    Row(name="none", help="truncated back-propagation: zero"),
)


@dataclass(frozen=True)
class TimeConfig:
    """Windows of a stream, whose state a recurrent layer carries on."""

    window: int | None = key(
        None,
        "T: steps of a window of parallel streams, run.batch_size of them; in the place of data.context; "
        "unset: no streams",
        minimum=1,
    )
    gradient: str = choice("none", TIMES, "gradient of later loss in the state at a window's end")
