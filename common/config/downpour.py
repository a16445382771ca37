"""Section [downpour]: pushes of Downpour SGD (Dean et al. 2012), and the application in the master."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.config.optimizers import SERVER_OPTIMIZERS, ServerRow
from common.config.pushes import PUSH_PRECISIONS, PUSHES, STALENESS_RULES
from common.config.settings import broadcast, choice, key
from common.errors import ConfigError

# A larger number of seats of one layer is a typing error, and would take the master's memory unnoticed.
MOST_REPLICAS = 1000
# More would cut small layers to nothing, and make more messages than they save.
MOST_FRAGMENTS = 100
# Word for steps between pushes that follow from measurements, and the fewest of these steps.
AUTO, FEWEST_STEPS = "auto", 10


@dataclass(frozen=True)
class DownpourConfig:
    """Replicas, pushes, and the master's optimizer and staleness rule."""

    push: str = choice("update", PUSHES)
    n_push: int | str = key(
        10, 'steps between two pushes; "auto": so many that pushes take at most 5 % of the time', minimum=1
    )
    precision: str = choice(
        "float32", PUSH_PRECISIONS, "parameters in a push, with the rounding added to the next push"
    )
    fragments: int = key(
        1,
        "parts of a layer's weights, pushed and fetched by turns, each every n_push and n_fetch steps",
        minimum=1,
        maximum=MOST_FRAGMENTS,
    )
    blend: float = key(
        0.0,
        "share of a layer's own weights that a fetch leaves, below 1 (alpha of Streaming DiLoCo)",
        minimum=0,
        maximum=1,
    )
    n_fetch: int = key(
        10, 'steps between two fetches; with n_push = "auto" no fewer than between two pushes', minimum=1
    )
    server_optimizer: str | None = choice(
        None,
        SERVER_OPTIMIZERS,
        "the master's optimizer; unset: adagrad for gradients, plain addition for updates",
        prefix="server_",
    )
    server_learning_rate: float | None = key(
        None,
        "of the master's optimizer; unset: "
        + ", ".join(f"{row.rate:g} for {row.name}" for row in SERVER_OPTIMIZERS.values()),
        above=0,
        maximum=1e6,
    )
    server_momentum: float | None = key(
        None,
        "of the master's optimizer; unset: "
        + ", ".join(
            f"{row.momentum:g} for {row.name}"
            for row in SERVER_OPTIMIZERS.values()
            if "momentum" in row.heeds
        ),
        minimum=0,
        maximum=1,
    )
    server_nesterov: bool = key(False, "of the master's sgd, with momentum")
    server_weight_decay: float = key(0.0, "of the master's optimizer", minimum=0)
    replicas: int | list[int] = key(
        1, "slaves that train the same layer (R); or one number a layer", minimum=1, maximum=MOST_REPLICAS
    )
    replicas_max: int | None = key(
        None,
        "most replicas of a layer, up to which the run takes in waiting slaves, and retires vacant seats, "
        "by itself",
        minimum=1,
        maximum=MOST_REPLICAS,
    )
    warm_start: int = key(0, "batches that replica 0 of a layer trains alone at first", minimum=0)
    staleness: str = choice("any", STALENESS_RULES, "a stale push")
    bound: int = key(16, 'largest staleness that staleness = "bound" takes', minimum=0)
    compensation: float = key(
        0.04, 'lambda of staleness = "compensate" (Zheng et al. 2017), of one step\'s gradient', minimum=0
    )

    def __post_init__(self) -> None:
        if isinstance(self.n_push, str) and self.n_push != AUTO:
            raise ConfigError(
                f'downpour.n_push: "{self.n_push}" is no number of steps; give one, or "{AUTO}"'
            )
        if self.replicas_max is not None and self.replicas_max < max(self._counts):
            raise ConfigError(
                f"downpour.replicas_max: {self.replicas_max} is less than downpour.replicas; give at least "
                f"{max(self._counts)}, or leave downpour.replicas_max out"
            )
        self._check_server()
        self._check_fragments()
        if STALENESS_RULES[self.staleness].compensates and not self.accrues:
            raise ConfigError(
                f'downpour.staleness: "{self.staleness}" corrects gradients; give downpour.push = "gradient" '
                "with it"
            )
        if STALENESS_RULES[self.staleness].compensates and self.adapts:
            raise ConfigError(
                f'downpour.staleness: "{self.staleness}" needs to know the steps of a push; give '
                "downpour.n_push a number with it"
            )
        if self.warm_start and set(self._counts) == {1}:
            raise ConfigError(
                f"downpour.warm_start: {self.warm_start} has no meaning with one replica; leave it out"
            )
        if self.replicas_max is not None:
            # What the run may come to is checked as if it were given.
            replace(self, replicas=self.replicas_max, replicas_max=None, warm_start=0)

    def _check_fragments(self) -> None:
        if self.fragments > 1 and self.accrues:
            raise ConfigError(
                f'downpour.fragments: downpour.push = "{self.push}" sums over whole layers; leave it out, or '
                "choose another downpour.push"
            )
        if self.fragments > 1 and STALENESS_RULES[self.staleness].counts:
            raise ConfigError(
                f'downpour.fragments: downpour.staleness = "{self.staleness}" counts pushes of whole layers; '
                "leave one of them out"
            )
        fetches = {"n_fetch": self.n_fetch} if self._fetches else {}
        for name, steps in ({"n_push": self.first_n_push} | fetches).items():
            if self.fragments > steps:
                raise ConfigError(
                    f"downpour.fragments: {self.fragments} fragments cannot take turns within {steps} steps; "
                    f"give at most {steps}, or a larger downpour.{name}"
                )
        if self.blend == 1:
            raise ConfigError("downpour.blend: 1 takes nothing of a fetched version; give less than 1")
        if self.blend and not self._fetches:
            raise ConfigError(
                f"downpour.blend: {self.blend:g} has no meaning where one replica adds its updates "
                "and fetches nothing; leave it out"
            )

    def _check_server(self) -> None:
        """Check the master's optimizer against the kind of push, and keys against an optimizer left unset."""
        row = self.server
        if row and row.outer == self.accrues:
            fitting = SERVER_OPTIMIZERS.select(lambda each: each.outer is not self.accrues)
            raise ConfigError(
                f'downpour.server_optimizer: "{row.name}" takes no pushes of downpour.push = "{self.push}"; '
                f"choose {' or '.join(fitting)}, or another downpour.push"
            )
        if self.server_optimizer is None:
            for name in ("learning_rate", "momentum", "nesterov", "weight_decay"):
                if getattr(self, f"server_{name}") and name not in (row.heeds if row else ()):
                    chosen = f'server_optimizer = "{row.name}"' if row else f'push = "{self.push}"'
                    raise ConfigError(
                        f"downpour.server_{name}: unknown key for downpour.{chosen}; leave it out, or choose "
                        "another downpour.server_optimizer"
                    )
        if self.server_nesterov and not self.momentum and row and "nesterov" in row.heeds:
            raise ConfigError("downpour.server_nesterov: needs downpour.server_momentum above 0")

    @property
    def server(self) -> ServerRow | None:
        """Row of the master's optimizer of weights; None where updates are added."""
        name = self.server_optimizer or ("adagrad" if self.accrues else None)
        return SERVER_OPTIMIZERS[name] if name else None

    @property
    def outer(self) -> bool:
        """Whether the master takes pushed changes of weights as outer gradients."""
        return self.server is not None and self.server.outer

    @property
    def momentum(self) -> float:
        """Momentum of the master's optimizer; 0 without an optimizer."""
        default = self.server.momentum if self.server else 0.0
        return default if self.server_momentum is None else self.server_momentum

    @property
    def cut(self) -> int:
        """Number of fragments of `k/weights` on the wire; 0: whole."""
        return self.fragments if self.fragments > 1 else 0

    @property
    def adapts(self) -> bool:
        """Whether steps between pushes follow from measurements."""
        return self.n_push == AUTO

    @property
    def first_n_push(self) -> int:
        """Steps before the first push, and between later ones unless measurements change them."""
        return FEWEST_STEPS if isinstance(self.n_push, str) else self.n_push

    @property
    def accrues(self) -> bool:
        """Whether slaves push accrued gradients, which the master's optimizer applies."""
        return PUSHES[self.push].accrues

    @property
    def server_rate(self) -> float:
        """Learning rate of the master's optimizer."""
        assert self.server is not None
        return self.server_learning_rate or self.server.rate

    @property
    def _fetches(self) -> bool:
        """Whether slaves fetch weights that others, or the master's optimizer, have changed."""
        return self.accrues or self.outer or set(self._counts) != {1}

    @property
    def _counts(self) -> list[int]:
        return self.replicas if isinstance(self.replicas, list) else [self.replicas]

    def replicas_of(self, layers: int) -> list[int]:
        """Return the number of replicas R of all K layers.

        Raises:
            ConfigError: a list of another length than K.
        """
        return broadcast("downpour.replicas", self.replicas, layers, "numbers")
