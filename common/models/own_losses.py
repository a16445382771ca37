"""Units with a loss or metrics of their own, beside the task's: deep supervision, the task of a part.

A unit with a method `losses(h, y)` adds these losses to L, and the layer that owns the unit back-propagates
them. A unit with a method `metrics(h, y)` is measured with every evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

from torch import Tensor, nn

from common.errors import ConfigError
from common.models.flow import describe
from common.signals.forms import is_name

# Name of a unit's loss among the metrics, and most metrics of a unit.
LOSS = "loss"
MOST_METRICS = 16


class Supervised(Protocol):
    """A unit with a loss of its own; a user's module fits by having the method."""

    def losses(self, h: Any, y: Tensor) -> Tensor:
        """Return the loss of each example, (B,), from the unit's output h and the targets y (B, ...)."""


class Measured(Protocol):
    """A unit with metrics of its own; a user's module fits by having the method."""

    def metrics(self, h: Any, y: Tensor) -> Mapping[str, Tensor]:
        """Return numbers of each example by name, (B,) each; arguments as of `Supervised.losses`."""


def has_losses(unit: object) -> TypeGuard[Supervised]:
    """Whether a unit has a loss of its own."""
    return _has_method(unit, "losses")


def has_metrics(unit: object) -> TypeGuard[Measured]:
    """Whether a unit has metrics of its own."""
    return _has_method(unit, "metrics")


def _has_method(unit: object, name: str) -> bool:
    found = getattr(unit, name, None)
    # A part of a unit may have such a name, and modules can be called.
    return callable(found) and not isinstance(found, nn.Module)


def is_supervised(layer: Iterable[nn.Module]) -> bool:
    """Whether a unit of a layer has a loss of its own."""
    return any(map(has_losses, layer))


def check_losses(losses: object, count: int, where: str) -> Tensor:
    """Return what `losses(h, y)` gave, if that is a loss of each example.

    Args:
        losses: as given.
        count: B.
        where: name of the unit, for a refusal.

    Raises:
        ConfigError: no floats of the shape (B,).
    """
    if isinstance(losses, Tensor) and losses.shape == (count,) and losses.is_floating_point():
        return losses
    raise ConfigError(
        f"{where} gives its own loss as {describe(losses)} for {count} examples; losses(h, y) must give the "
        f"loss of each example, floats ({count},): take the mean over all dimensions but the first"
    )


def check_metrics(metrics: object, count: int, where: str) -> dict[str, Tensor]:
    """Return what `metrics(h, y)` gave, if these are numbers of each example by name.

    Arguments as of `check_losses`.

    Raises:
        ConfigError: no dict, too many names, or a value that is no tensor (B,).
    """
    if not isinstance(metrics, Mapping) or len(metrics) > MOST_METRICS:
        given = f"{len(metrics)} names" if isinstance(metrics, Mapping) else describe(metrics)
        raise ConfigError(
            f"{where} gives {given} as its metrics; metrics(h, y) must give a dict of at most {MOST_METRICS} "
            "names"
        )
    for name, values in metrics.items():
        if not is_name(name) or name == LOSS:
            raise ConfigError(
                f"{where} names a metric {name!r:.80}; give letters, digits and _, at most 64 of them, and "
                f'another name than "{LOSS}"'
            )
        if not isinstance(values, Tensor) or values.shape != (count,):
            raise ConfigError(
                f'{where} gives the metric "{name}" as {describe(values)} for {count} examples; metrics(h, '
                f"y) must give a number of each example, ({count},)"
            )
    return dict(metrics)


def check_nested(units: Sequence[nn.Module], where: str) -> None:
    """Check that no part of a unit has a loss of its own that nothing would add.

    Raises:
        ConfigError: a part has one, and the unit has none; names the unit.
    """
    for number, unit in enumerate(units, 1):
        parts = [part for part in unit.modules() if part is not unit and has_losses(part)]
        if parts and not has_losses(unit):
            raise ConfigError(
                f"{where}: unit {number} holds a module with a loss of its own ({type(parts[0]).__name__}), "
                "which nothing would add; make that a unit of its own, or give the unit losses(h, y)"
            )
