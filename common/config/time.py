"""Section [time]: windows of streams, and the gradient at a window's end, for recurrent networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.bounds import MOST_WIDTH
from common.config import settings
from common.config.settings import choice, key
from common.registry import Registry, Row


@dataclass(frozen=True)
class DniTimeOptions:
    """Options of M in time, the regression from the state to the gradient of all later loss."""

    hidden: list[int] = key([64], "widths of the hidden layers; [] is linear", minimum=1, maximum=MOST_WIDTH)
    squash: bool = key(True, "M takes tanh of the state, and large cells get no gradient")


@dataclass(frozen=True, kw_only=True)
class TimeRow(Row):
    """A gradient of later loss, at the end of a window.

    Attributes:
        options: dataclass of `time.options`, where recurrent layers have M in time.
    """

    options: type[DniTimeOptions] | None = None

    @property
    def synthesizes(self) -> bool:
        """Whether recurrent layers have M in time."""
        return self.options is not None


TIMES = Registry(
    TimeRow(name="none", help="truncated back-propagation: zero"),
    TimeRow(
        name="dni",
        help="M in time, a regression on the state",
        heeds=("options", "scale"),
        options=DniTimeOptions,
    ),
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
    options: dict[str, Any] = key({}, "options of M in time: hidden, ...")
    scale: float = key(
        0.1, "of M in time: factor of M's output, which makes M's steps small", above=0, maximum=1e3
    )

    def __post_init__(self) -> None:
        if self.row.synthesizes:
            self.synthesizer_options()

    @property
    def row(self) -> TimeRow:
        """Row of the gradient."""
        return TIMES[self.gradient]

    def synthesizer_options(self) -> DniTimeOptions:
        """Return the checked options of M in time, which the gradient has."""
        assert self.row.options is not None
        return settings.read(self.row.options, self.options, "time.options.")
