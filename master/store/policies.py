"""How each shard of a run takes its pushes, from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.config.downpour import Downpour
from common.config.sections import Config
from common.optim.optimizers import Settings
from common.shards.pushes import Operation
from master.store.optimizers import ServerOptimizer
from master.store.staleness import Rule


@dataclass(frozen=True)
class Policy:
    """How one shard takes its pushes.

    Attributes:
        replicas: R, the slaves that push to it.
        rule: what comes of a push's staleness.
        optimizer: what applies accrued gradients; None: updates come, and are added.
    """

    replicas: int = 1
    rule: Rule = Rule()
    optimizer: ServerOptimizer | None = None

    @property
    def operation(self) -> Operation:
        """What is pushed to it."""
        return Operation.ACCRUED_GRADIENT if self.optimizer else Operation.UPDATE

    @property
    def moments(self) -> int:
        """Numbers that are remembered for each parameter."""
        return self.optimizer.moments if self.optimizer else 0


Policies = Callable[[str], Policy]


def alike(policy: Policy | None = None) -> Policies:
    """One policy for every shard."""
    chosen = policy or Policy()
    return lambda _: chosen


def policies(config: Config) -> Policies:
    """The policy of each shard of a resolved configuration: M's and I's always take updates.

    Where the master runs M, it alone changes M's shard, whatever the number of replicas. What a slave's
    optimizers remember (k/optimizer) is never fetched by those that push it: no staleness rule is for it.
    """
    downpour, replicas = config.downpour, config.replicas
    rule, optimizer = rule_of(downpour), optimizer_of(downpour)
    served = config.cluster.synthesis == "master"

    def policy(shard: str) -> Policy:
        layer, _, kind = shard.partition("/")
        count = replicas[int(layer) - 1]
        if kind == "weights":
            return Policy(count, rule, optimizer)
        if kind == "optimizer":
            return Policy(count)
        return Policy(1 if served else count, rule)

    return policy


def rule_of(downpour: Downpour) -> Rule:
    """The run's staleness rule.

    Zheng et al.'s lambda is for one step's gradient. A push is the sum of n_push of them, and to be
    compensated by the sum of their squares: about the square of the sum over n_push.
    """
    return Rule(downpour.staleness, downpour.bound, downpour.compensation / downpour.n_push)


def optimizer_of(downpour: Downpour) -> ServerOptimizer | None:
    """The master's optimizer, where gradients are pushed. Loads torch."""
    if downpour.push != "gradient":
        return None
    return ServerOptimizer(
        Settings(
            downpour.server_optimizer,
            downpour.server_rate,
            downpour.server_momentum,
            downpour.server_nesterov,
            downpour.server_weight_decay,
        )
    )
