"""Passage of the test set through a network, unit by unit, with the losses and metrics of the units' own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from common.config.tasks import name_unit_metric
from common.models.own_losses import LOSS, check_losses, check_metrics, has_losses, has_metrics
from common.models.recurrent import Unrolled
from common.signals.values import Signal, offer


class Passage:
    """Units of a network in evaluation; of streams the state goes on from call to call. Without a gradient.

    Args:
        units: of the network.
        carries: whether a batch is a window of streams.
    """

    def __init__(self, units: Iterable[nn.Module], *, carries: bool) -> None:
        self._units = list(units)
        self._passed: list[Callable[[Signal], Signal]] = [
            Unrolled([unit]) if carries else unit for unit in self._units
        ]
        self._sums: dict[str, Tensor] = {}
        self._examples = 0

    def __call__(self, x: Signal) -> Signal:
        """Return the output for an input."""
        for passed in self._passed:
            x = passed(offer(x))
        return x

    def measure(self, x: Signal, y: Tensor) -> Signal:
        """Return the output for an input; add losses and metrics of the units' own to the sums.

        Args:
            x: (B, ...).
            y: targets, (B, ...).

        Raises:
            ConfigError: a unit gives other values than numbers of each example.
        """
        self._examples += len(y)
        for number, (unit, passed) in enumerate(zip(self._units, self._passed, strict=True), 1):
            x = passed(offer(x))
            self._add(number, unit, x, y)
        return x

    def means(self) -> dict[str, float]:
        """Return the means over all examples measured, by name: unit_3_loss, ..."""
        return {name: float(total) / self._examples for name, total in self._sums.items()}

    def _add(self, number: int, unit: nn.Module, h: Signal, y: Tensor) -> None:
        found: dict[str, Tensor] = {}
        if has_losses(unit):
            found[LOSS] = check_losses(unit.losses(offer(h), y), len(y), f"unit {number}")
        if has_metrics(unit):
            found |= check_metrics(unit.metrics(offer(h), y), len(y), f"unit {number}")
        for name, values in found.items():
            full, total = name_unit_metric(number, name), values.double().sum()
            self._sums[full] = self._sums[full] + total if full in self._sums else total
