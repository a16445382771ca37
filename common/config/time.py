"""Section [time]: windows of streams, and the gradient at a window's end, for recurrent networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.bounds import MOST_WIDTH
from common.config import settings
from common.config.settings import choice, key
from common.errors import ConfigError
from common.registry import Registry, Row


@dataclass(frozen=True)
class DniTimeOptions:
    """Options of M in time, the regression from the state to the gradient of all later loss."""

    hidden: list[int] = key([64], "widths of the hidden layers; [] is linear", minimum=1, maximum=MOST_WIDTH)
    squash: bool = key(True, "M takes tanh of the state, and large cells get no gradient")


@dataclass(frozen=True)
class LambdaTimeOptions(DniTimeOptions):
    """Options of M in time that learns by eligibility traces, B S P numbers for P parameters of M."""

    hidden: list[int] = key([], "widths of the hidden layers; [] is linear", minimum=1, maximum=MOST_WIDTH)
    decay: float = key(0.9, "lambda: weight of a window's error in the target of the window before",
                       minimum=0, maximum=1)  # fmt: skip


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


# Keys that every gradient with an M in time heeds.
_SYNTHESIS = ("options", "scale", "aux", "aux_horizon")

TIMES = Registry(
    TimeRow(name="none", help="truncated back-propagation: zero"),
    TimeRow(
        name="dni",
        help="M in time, a regression on the state",
        heeds=_SYNTHESIS,
        options=DniTimeOptions,
    ),
    TimeRow(
        name="lambda",
        help="M in time that learns by eligibility traces, for small networks",
        heeds=_SYNTHESIS,
        options=LambdaTimeOptions,
    ),
)


@dataclass(frozen=True)
class TimeConfig:
    """Windows of a stream, whose state a recurrent layer carries on."""

    window: int | None = key(
        None,
        "T: steps of a window of parallel streams, run.batch_size of them; in the place of data.context, and "
        "of your own data a row is a step; unset: no streams",
        minimum=1,
    )
    gradient: str = choice("none", TIMES, "gradient of later loss in the state at a window's end")
    options: dict[str, Any] = key({}, "options of M in time: hidden, ...")
    scale: float = key(
        0.1, "of M in time: factor of M's output, which makes M's steps small", above=0, maximum=1e3
    )

    aux: bool = key(False, "of M in time: a layer's state also learns to predict M's later output")
    aux_horizon: int | None = key(
        None, "of aux: steps ahead of M's output, at the window's end; unset: time.window", minimum=1
    )

    def __post_init__(self) -> None:
        if self.aux_horizon is not None:
            self._check_horizon(self.aux_horizon)
        if self.row.synthesizes:
            self.synthesizer_options()

    def _check_horizon(self, horizon: int) -> None:
        if not self.aux:
            raise ConfigError(
                f"time.aux_horizon: {horizon} has no meaning without time.aux = true; give both, or none"
            )
        if self.window is not None and horizon > self.window:
            raise ConfigError(
                f"time.aux_horizon: {horizon} steps are longer than a window, time.window = {self.window}; "
                f"give at most {self.window}"
            )

    @property
    def early(self) -> int:
        """Steps of a window before the state from which the auxiliary head predicts."""
        return 0 if self.aux_horizon is None or self.window is None else self.window - self.aux_horizon

    @property
    def row(self) -> TimeRow:
        """Row of the gradient."""
        return TIMES[self.gradient]

    @property
    def decay(self) -> float | None:
        """Lambda, where M in time learns by eligibility traces."""
        options = self.synthesizer_options() if self.row.synthesizes else None
        return options.decay if isinstance(options, LambdaTimeOptions) else None

    def synthesizer_options(self) -> DniTimeOptions:
        """Return the checked options of M in time, which the gradient has."""
        assert self.row.options is not None
        return settings.read(self.row.options, self.options, "time.options.")
