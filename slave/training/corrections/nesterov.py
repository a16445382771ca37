"""`nesterov`: Nesterov's momentum looks over the delay (AsyncPP; Ajanthan et al. 2025)."""

from __future__ import annotations

from common.config.late import BACKWARDS
from common.config.sections import Config
from common.optim.stepper import Adjustment
from slave.training.corrections import Correction
from slave.training.corrections.pipemare import slow

# The paper's momenta of the last stage, and of the first of eight, whose gradients are seven steps late.
IN_TIME, LATE, STEPS_LATE = 0.9, 0.99, 7


def momentum(delay: int) -> float:
    """Return nadam's beta_1 for a gradient tau steps late: 1 - beta_1 falls as 1 / (1 + c tau)."""
    growth = ((1 - IN_TIME) / (1 - LATE) - 1) / STEPS_LATE
    return 1 - (1 - IN_TIME) / (1 + growth * delay)


class Nesterov(Correction):
    """Steps with more momentum, the later a gradient is, and with smaller ones early in a run.

    The paper has a momentum for each stage; here it is a function of the delay, through the paper's momenta
    of the first and the last of eight stages. With the weights of the forward the paper takes the highest for
    all and does not slow down.
    """

    def __init__(self, batches: int, *, exact: bool) -> None:
        self._batches = batches
        self._exact = exact

    def adjust(self, batch: int, delay: int) -> Adjustment:
        """Return momentum and rate for a delay."""
        if self._exact:
            return Adjustment(beta=LATE)
        return Adjustment(slow(delay, batch, self._batches), momentum(delay))


def build(config: Config) -> Nesterov:
    """Build the correction."""
    return Nesterov(config.run.batches, exact=BACKWARDS[config.decoupling.backward].exact)
