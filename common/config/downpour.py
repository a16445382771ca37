"""Section [downpour]: pushes of Downpour SGD (Dean et al. 2012), and the application in the master."""

from __future__ import annotations

from dataclasses import dataclass

from common.config.optimizers import SERVER_OPTIMIZERS
from common.config.pushes import PUSHES, STALENESS_RULES
from common.config.settings import broadcast, choice, key
from common.errors import ConfigError

# A larger number of seats of one layer is a typing error, and would take the master's memory unnoticed.
MOST_REPLICAS = 1000


@dataclass(frozen=True)
class DownpourConfig:
    """Replicas, pushes, and the master's optimizer and staleness rule."""

    push: str = choice("update", PUSHES)
    n_push: int = key(10, "steps between two pushes", minimum=1)
    n_fetch: int = key(10, "steps between two fetches", minimum=1)
    server_optimizer: str = choice(
        "adagrad", SERVER_OPTIMIZERS, 'the master\'s optimizer, with push = "gradient"', prefix="server_"
    )
    server_learning_rate: float | None = key(
        None,
        "of the master's optimizer; unset: "
        + ", ".join(f"{row.server_rate:g} for {row.name}" for row in SERVER_OPTIMIZERS.values()),
        above=0,
        maximum=1e6,
    )
    server_momentum: float = key(0.0, "of the master's sgd", minimum=0, maximum=1)
    server_nesterov: bool = key(False, "of the master's sgd, with momentum")
    server_weight_decay: float = key(0.0, "of the master's optimizer", minimum=0)
    replicas: int | list[int] = key(
        1, "slaves that train the same layer (R); or one number a layer", minimum=1, maximum=MOST_REPLICAS
    )
    warm_start: int = key(0, "batches that replica 0 of a layer trains alone at first", minimum=0)
    staleness: str = choice("any", STALENESS_RULES, "a stale push")
    bound: int = key(16, 'largest staleness that staleness = "bound" takes', minimum=0)
    compensation: float = key(
        0.04, 'lambda of staleness = "compensate" (Zheng et al. 2017), of one step\'s gradient', minimum=0
    )

    def __post_init__(self) -> None:
        heeds = SERVER_OPTIMIZERS[self.server_optimizer].heeds
        if self.server_nesterov and self.server_momentum == 0 and "nesterov" in heeds:
            raise ConfigError("downpour.server_nesterov: needs downpour.server_momentum above 0")
        if STALENESS_RULES[self.staleness].compensates and not self.accrues:
            raise ConfigError(
                f'downpour.staleness: "{self.staleness}" corrects gradients; give downpour.push = "gradient" '
                "with it"
            )
        if self.warm_start and set(self._counts) == {1}:
            raise ConfigError(
                f"downpour.warm_start: {self.warm_start} has no meaning with one replica; leave it out"
            )

    @property
    def accrues(self) -> bool:
        """Whether slaves push accrued gradients, which the master's optimizer applies."""
        return PUSHES[self.push].accrues

    @property
    def server_rate(self) -> float:
        """Learning rate of the master's optimizer."""
        rate = self.server_learning_rate or SERVER_OPTIMIZERS[self.server_optimizer].server_rate
        assert rate is not None
        return rate

    @property
    def _counts(self) -> list[int]:
        return self.replicas if isinstance(self.replicas, list) else [self.replicas]

    def replicas_of(self, layers: int) -> list[int]:
        """Return the number of replicas R of all K layers.

        Raises:
            ConfigError: a list of another length than K.
        """
        return broadcast("downpour.replicas", self.replicas, layers, "numbers")
