"""Registries of optimizers, of what weight decay shrinks, and of learning rate schedules.

One step of an optimizer is `common.optim.steps.NAME`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from common.registry import Registry, Row

# Longest side of a matrix for which soap keeps a basis.
LONGEST_SIDE = 4096
# 150, 225 and 275 of 300 epochs, as FDG's and many published figures were trained.
MILESTONES = (1 / 2, 3 / 4, 11 / 12)


@dataclass(frozen=True, kw_only=True)
class OptimizerRow(Row):
    """An optimizer, named as in `torch.optim`.

    Attributes:
        moments: numbers kept for each parameter, given the momentum.
        price: multiply-adds of the step of one parameter, with clearing and accumulating the gradient; a
            ratio measured once, on one core (`common.models.costs`).
        others: optimizer of embeddings and of tensors that are no matrices; empty: this one.
        sides: shapes of further tensors that are kept for a matrix of some shape.
        server_rate: default learning rate in the master; None: not offered there. Measured with two replicas
            on the digits and MNIST, amid a wide plateau.
    """

    moments: Callable[[float], int]
    price: float
    others: str = ""
    sides: Callable[[tuple[int, ...]], list[tuple[int, int]]] = lambda _: []
    server_rate: float | None = None


def _soap_sides(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return the shapes of a covariance and a basis for the rows, then for the columns of a matrix."""
    # A side over the bound would weigh more than the rest of the layer; its basis is the identity.
    lengths = [length if length <= LONGEST_SIDE else 0 for length in shape]
    return [(length, length) for length in lengths for _ in range(2)]


OPTIMIZERS = Registry(
    OptimizerRow(
        name="sgd", help="with or without momentum", heeds=("momentum", "nesterov"),
        moments=lambda momentum: int(momentum > 0), price=130.0, server_rate=0.1,
    ),
    OptimizerRow(
        name="adam", help="Kingma and Ba, 2015", moments=lambda _: 2, price=290.0, server_rate=0.003
    ),
    OptimizerRow(
        name="adamw", help="adam with decoupled weight decay", moments=lambda _: 2, price=290.0,
        server_rate=0.003,
    ),
    OptimizerRow(
        name="nadam", help="adam with Nesterov's momentum (Dozat, 2016)", moments=lambda _: 2, price=900.0,
        server_rate=0.003,
    ),
    OptimizerRow(
        name="muon", help="orthogonal steps of matrices (Jordan et al., 2024), of other tensors adamw's",
        # The second number is adamw's. The price is that of matrices some 256 wide: 15 n for n x n.
        moments=lambda _: 2, price=4000.0, others="adamw",
    ),
    OptimizerRow(
        name="soap", help="adam in the eigenbasis of matrices (Vyas et al., 2024), of other tensors adamw's",
        # The price is that of matrices some 256 wide.
        moments=lambda _: 2, price=4500.0, others="adamw", sides=_soap_sides,
    ),
    OptimizerRow(
        name="adagrad", help="Duchi et al., 2011", moments=lambda _: 1, price=180.0, server_rate=0.01
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ServerRow(Row):
    """An optimizer of the master.

    Attributes:
        rate: default learning rate.
        momentum: default momentum.
        outer: whether the optimizer takes pushed changes, as outer gradients; else accrued gradients.
    """

    rate: float
    momentum: float = 0.0
    outer: bool = False


SERVER_OPTIMIZERS = Registry(
    *(
        ServerRow(
            name=row.name,
            help=row.help,
            heeds=("learning_rate", "weight_decay", *row.heeds),
            rate=row.server_rate,
        )
        for row in OPTIMIZERS.values()
        if row.server_rate is not None
    ),
    # Rate and momentum of DiLoCo (Douillard et al. 2023).
    ServerRow(
        name="nesterov", help="delayed Nesterov momentum on pushed changes (Liu et al. 2024)",
        heeds=("learning_rate", "momentum"), rate=0.7, momentum=0.9, outer=True,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DecayRow(Row):
    """Tensors that weight decay shrinks.

    Attributes:
        dimensions: fewest dimensions of such a tensor.
    """

    dimensions: int


DECAYS = Registry(
    DecayRow(name="all", help="every tensor", dimensions=0),
    DecayRow(name="matrices", help="tensors of two dimensions or more, no biases and norms", dimensions=2),
)


@dataclass(frozen=True, kw_only=True)
class ScheduleRow(Row):
    """A learning rate schedule.

    Attributes:
        rate: learning rate, given the configured rate and the progress of the run, 0 to 1.
    """

    rate: Callable[[float, float], float]


SCHEDULES = Registry(
    ScheduleRow(name="constant", help="one rate", rate=lambda rate, _: rate),
    ScheduleRow(
        name="cosine",
        help="to zero at the run's end",
        rate=lambda rate, progress: rate * 0.5 * (1 + math.cos(math.pi * progress)),
    ),
    ScheduleRow(
        name="linear", help="to zero at the run's end", rate=lambda rate, progress: rate * (1 - progress)
    ),
    ScheduleRow(
        name="steps",
        help="a tenth at 1/2, 3/4 and 11/12 of the run",
        rate=lambda rate, progress: rate / math.pow(10, sum(progress >= each for each in MILESTONES)),
    ),
)
