"""The configuration's section on Downpour SGD (Dean et al. 2012): what is pushed, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from common.config.settings import key, one_a_layer
from common.errors import ConfigError

PUSHES = ("update", "gradient")
SERVER_OPTIMIZERS = ("adagrad", "sgd", "adam", "adamw")
STALENESS_RULES = ("any", "bound", "scale", "compensate")

# Seats of one layer: more is a slip of the keyboard, and would take the master's memory before it is noticed.
MOST_REPLICAS = 1000

# Measured with two replicas on the digits and MNIST, where they are amid a wide plateau.
_RATES = {"adagrad": 0.01, "sgd": 0.1, "adam": 0.003, "adamw": 0.003}
_OF_SGD = ["server_momentum", "server_nesterov"]


@dataclass(frozen=True)
class Downpour:
    """How what was learned reaches the master, and what it makes of it."""

    push: str = key(
        "update",
        "update: the change that the slave's own optimizer made; "
        "gradient: the accrued gradient of the weights, for the master's optimizer",
        choices=PUSHES,
    )
    n_push: int = key(10, "steps between two pushes", minimum=1)
    n_fetch: int = key(10, "steps between two fetches", minimum=1)
    server_optimizer: str = key(
        "adagrad", 'with push = "gradient": adagrad, sgd, adam or adamw', choices=SERVER_OPTIMIZERS
    )
    server_learning_rate: float | None = key(
        None, "of the master's optimizer; unset: 0.01 for adagrad, 0.1 for sgd, 0.003 for adam(w)", above=0
    )
    server_momentum: float = key(0.0, "of the master's sgd", minimum=0, maximum=1)
    server_nesterov: bool = key(False, "of the master's sgd, with momentum")
    server_weight_decay: float = key(0.0, "of the master's optimizer", minimum=0)
    replicas: int | list[int] = key(
        1, "slaves that train the same layer (R); or one number a layer", minimum=1, maximum=MOST_REPLICAS
    )
    warm_start: int = key(0, "batches that replica 0 of a layer trains alone at first", minimum=0)
    staleness: str = key(
        "any",
        "of a push too old: any takes it, bound refuses it, scale divides it by its staleness, "
        "compensate corrects its gradient",
        choices=STALENESS_RULES,
    )
    bound: int = key(16, 'largest staleness that staleness = "bound" takes', minimum=0)
    compensation: float = key(
        0.04, 'lambda of staleness = "compensate" (Zheng et al. 2017), of one step\'s gradient', minimum=0
    )

    def __post_init__(self) -> None:
        self._check_idle_keys()
        if self.server_nesterov and self.server_momentum == 0:
            raise ConfigError("downpour.server_nesterov: needs downpour.server_momentum above 0")
        if self.staleness == "compensate" and self.push != "gradient":
            raise ConfigError(
                'downpour.staleness: "compensate" corrects gradients; give downpour.push = "gradient" with it'
            )
        if self.warm_start and set(self._counts) == {1}:
            raise ConfigError(
                f"downpour.warm_start: {self.warm_start} has no meaning with one replica; leave it out"
            )

    def _check_idle_keys(self) -> None:
        """A key that the chosen values leave without a meaning must not be given another value."""
        server = [field.name for field in fields(self) if field.name.startswith("server_")]
        rules = [
            (self.push == "gradient", server, 'push = "gradient"'),
            (self.server_optimizer == "sgd", _OF_SGD, 'server_optimizer = "sgd"'),
            (self.staleness == "bound", ["bound"], 'staleness = "bound"'),
            (self.staleness == "compensate", ["compensation"], 'staleness = "compensate"'),
        ]
        defaults = {field.name: field.default for field in fields(self)}
        for holds, names, needed in rules:
            for name in names:
                if not holds and getattr(self, name) != defaults[name]:
                    raise ConfigError(
                        f"downpour.{name}: has no meaning without downpour.{needed}; leave it out"
                    )

    @property
    def server_rate(self) -> float:
        """The learning rate of the master's optimizer."""
        return self.server_learning_rate or _RATES[self.server_optimizer]

    @property
    def _counts(self) -> list[int]:
        return self.replicas if isinstance(self.replicas, list) else [self.replicas]

    def replicas_of(self, layers: int) -> list[int]:
        """R of each of K layers.

        Raises:
            ConfigError: a list of another length than K.
        """
        return one_a_layer("downpour.replicas", self.replicas, layers, "numbers")
