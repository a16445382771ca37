"""Registries of Downpour SGD's choices: the kinds of push, and the rules for stale pushes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.registry import Registry, Row


@dataclass(frozen=True, kw_only=True)
class PushRow(Row):
    """A kind of push.

    Attributes:
        accrues: whether slaves sum up gradients, for the master's optimizer.
    """

    accrues: bool


PUSHES = Registry(
    PushRow(
        name="update",
        help="the change that the slave's own optimizer made",
        heeds=("server_optimizer", "server_learning_rate", "server_momentum"),
        accrues=False,
    ),
    PushRow(
        name="gradient",
        help="the accrued gradient of the weights, for the master's optimizer",
        heeds=(
            "server_optimizer", "server_learning_rate", "server_momentum", "server_nesterov",
            "server_weight_decay",
        ),
        accrues=True,
    ),
)  # fmt: skip


# Forms of the parameters in a push, `common.shards.table.Precision`.
PUSH_PRECISIONS = Registry(
    Row(name="float32", help="unchanged"),
    Row(name="bfloat16", help="half the bytes"),
    Row(name="int8", help="a quarter of the bytes, scaled by 256 numbers"),
)


@dataclass(frozen=True, kw_only=True)
class StalenessRow(Row):
    """A rule for stale pushes; staleness is counted as in the vocabulary.

    Attributes:
        admits: whether a push is applied, given its staleness and `downpour.bound`.
        weight: factor of a push's change, or of its learning rate, given its staleness.
        compensates: whether the gradient is corrected to the present weights, from the fetched ones. Needs
            pushed gradients.
        counts: whether the rule heeds staleness at all.
    """

    admits: Callable[[int, int], bool] = lambda staleness, bound: True  # noqa: ARG005
    weight: Callable[[int], float] = lambda staleness: 1.0  # noqa: ARG005
    compensates: bool = False
    counts: bool = True


STALENESS_RULES = Registry(
    StalenessRow(name="any", help="applied as it is", counts=False),
    # Stale synchronous (Ho et al. 2013).
    StalenessRow(
        name="bound", help="refused above downpour.bound", heeds=("bound",),
        admits=lambda staleness, bound: staleness <= bound,
    ),
    # Staleness-aware SGD (Zhang et al. 2016).
    StalenessRow(
        name="scale", help="divided by its staleness", weight=lambda staleness: 1.0 / max(1, staleness)
    ),
    # Delay compensation (Zheng et al. 2017).
    StalenessRow(
        name="compensate", help="its gradient corrected", heeds=("compensation",), compensates=True
    ),
)  # fmt: skip
