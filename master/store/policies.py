"""Policies of a run's shards for pushes, from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from common.config.downpour import DownpourConfig
from common.config.sections import Config
from common.optim.optimizers import Settings
from common.shards.average import WEIGHTS
from common.shards.pushes import Operation
from common.shards.table import Table
from master.store.average import Averaging, Progress, place
from master.store.optimizers import ServerOptimizer, room
from master.store.outer import Outer
from master.store.staleness import StalenessRule


@dataclass(frozen=True)
class Policy:
    """Policy of a shard for pushes.

    Attributes:
        replicas: R, the number of slaves that push.
        rule: treatment of stale pushes.
        fragments: number of fragments that are pushed by turns; 0: pushes are whole.
        optimizer: applies accrued gradients, or changes as outer gradients; None: updates are added.
        average: of the parameters, kept beside them; None: no average is kept.
        start: first batch that these replicas train; the shard has all before.
    """

    replicas: int = 1
    rule: StalenessRule = StalenessRule()
    optimizer: ServerOptimizer | Outer | None = None
    fragments: int = 0
    average: Averaging | None = None
    start: int = 0

    @property
    def operation(self) -> Operation:
        """Operation of the slaves' pushes."""
        return self.optimizer.operation if self.optimizer else Operation.UPDATE

    @property
    def moments(self) -> int:
        """Moments of the optimizer, per parameter."""
        return self.optimizer.moments if self.optimizer else 0

    def next_batch(self, progress: Progress, replica: int | None = None) -> int:
        """First batch that a shard may lack, of a replica or of the slowest."""
        if replica is not None:
            return max(progress.get(replica, 0), self.start)
        return min(self.next_batch(progress, each) for each in range(self.replicas))

    def beginning(self, start: int) -> Policy:
        """Return the policy from a batch on that the shard does not lack."""
        return replace(self, start=start, average=self.average and replace(self.average, start=start))

    def room(self, table: Table) -> int:
        """Size of a shard's buffer in bytes: the tensors, then the optimizer's moments and the average."""
        return place(table, self.moments).stop if self.average else room(table, self.moments)


class Policies:
    """Policies of shards by name, for the present replicas.

    Args:
        policy: returns the policy of a shard, from its name and R by layer.
        replicas: R by layer at first.
    """

    def __init__(self, policy: Callable[[str, Sequence[int]], Policy], replicas: Sequence[int] = ()) -> None:
        self._policy = policy
        self._start, self._replicas = 0, replicas

    def __call__(self, shard: str) -> Policy:
        """Return the policy of a shard."""
        policy = self._policy(shard, self._replicas)
        return policy.beginning(self._start) if self._start else policy

    def deal(self, start: int, replicas: Sequence[int]) -> None:
        """Have other replicas, from a batch on that no shard lacks."""
        self._start, self._replicas = start, replicas


def uniform(policy: Policy | None = None) -> Policies:
    """Use a single policy for every shard."""
    chosen = policy or Policy()
    return Policies(lambda *_: chosen)


def policies(config: Config) -> Policies:
    """Derive the policies from a resolved configuration; shards of M and I always take updates.

    With served synthesis the master alone changes M's shard, whatever the number of replicas. Slaves never
    fetch `k/optimizer`, so staleness rules do not apply to it; `k/state-r` belongs to replica r alone.
    """
    run, downpour = config.run, config.downpour
    rule, optimizer = staleness_rule(downpour), server_optimizer(downpour)
    served = config.cluster.served

    def policy(shard: str, replicas: Sequence[int]) -> Policy:
        layer, _, kind = shard.partition("/")
        count = replicas[int(layer) - 1]
        if kind == WEIGHTS:
            outer = Outer(downpour.server_rate, downpour.momentum, count) if downpour.outer else None
            average = Averaging(run.average_horizon, count, downpour.warm_start) if run.averages else None
            return Policy(count, rule, outer or optimizer, downpour.cut, average)
        if kind == "optimizer":
            return Policy(count)
        if kind.startswith("state-"):
            return Policy(1)
        return Policy(1 if served else count, rule)

    return Policies(policy, config.replicas)


def staleness_rule(downpour: DownpourConfig) -> StalenessRule:
    """Build the run's staleness rule.

    The lambda of Zheng et al. 2017 is for the gradient of a single step. A push sums n_push gradients and
    needs the sum of their squares, about the square of the sum over n_push: hence lambda / n_push.
    """
    return StalenessRule(downpour.staleness, downpour.bound, downpour.compensation / downpour.first_n_push)


def server_optimizer(downpour: DownpourConfig) -> ServerOptimizer | None:
    """Build the server optimizer; None where slaves push updates. Loads torch."""
    if not downpour.accrues or downpour.server is None:
        return None
    return ServerOptimizer(
        Settings(
            downpour.server.name,
            downpour.server_rate,
            downpour.momentum,
            downpour.server_nesterov,
            downpour.server_weight_decay,
        )
    )
