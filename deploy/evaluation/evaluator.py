"""Evaluation of the chain f_1..f_K on the test set, outside the master, which never runs models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.config.sections import Config
from common.data import batches
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.models import network
from common.models.network import Blueprint
from common.shards import flat
from common.shards.pushes import Buffer, Header
from common.signals.values import Signal
from common.wire.messages import Evaluation

Pull = Callable[[str], tuple[Header, Buffer]]


@dataclass(frozen=True)
class PulledNetwork:
    """State of the plain network at a vector of versions, pulled from a master."""

    state: dict[str, Tensor]
    versions: dict[str, int]
    batches: int


# Number of training batches on which BN's statistics are estimated.
STATISTICS_BATCHES = 30


def pull_network(config: Config, pull: Pull) -> PulledNetwork:
    """Pull every layer's weights, with the names of the plain network.

    Raises:
        NotFoundError: a layer has no weights yet.
    """
    state: dict[str, Tensor] = {}
    versions: dict[str, int] = {}
    through: list[int] = []
    for k in range(1, config.layers + 1):
        header, buffer = pull(f"{k}/weights")
        versions[header.shard] = header.version
        through.append(header.next_batch)
        for name, tensor in flat.state_dict(header.table, buffer).items():
            state[network.plain_name(config.network.cuts or [], k, name)] = tensor
    return PulledNetwork(state, versions, min(*through, config.run.batches))


class Evaluator:
    """The plain network, with the test set that measures it."""

    def __init__(self, config: Config, dataset: Dataset, blueprint: Blueprint) -> None:
        self._config = config
        self._dataset = dataset
        self._task = blueprint.task
        self.network = nn.Sequential(*blueprint.units).eval()

    def pull(self, pull: Pull) -> PulledNetwork:
        """Pull every layer's weights, ready to be measured and saved.

        With unlock `full`, BN's statistics come from predicted inputs. They are estimated anew on the real
        chain, so that the plain network has the right ones; equal weights give equal statistics.

        Raises:
            NotFoundError: a layer has no weights yet.
        """
        pulled = pull_network(self._config, pull)
        pulled = replace(pulled, state=self._name_ties(pulled.state))
        if not self._config.decoupling.row.predicts:
            return pulled
        self.network.load_state_dict(pulled.state, strict=False)
        training = batches.Batches(self._dataset, self._config.run.seed, self._config.run.batch_size)
        estimate_statistics(self.network, map(training.inputs, range(STATISTICS_BATCHES)))
        state = self.network.state_dict()
        return replace(pulled, state={name: state[name].clone() for name in pulled.state})

    def _name_ties(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the state with a copy under each further name of a tied tensor, as a state dict has them."""
        firsts: dict[int, str] = {}
        named = dict(state)
        for name, tensor in self.network.state_dict(keep_vars=True).items():
            first = firsts.setdefault(id(tensor), name)
            if name not in state and first in state:
                named[name] = state[first].clone()
        return named

    def measure(self, pulled: PulledNetwork) -> Evaluation:
        """Measure the test loss and the task's metrics of a pulled network."""
        return self.measure_state(pulled.state, pulled.versions, pulled.batches)

    @torch.no_grad()
    def measure_state(
        self, state: Mapping[str, Tensor], versions: dict[str, int], through: int
    ) -> Evaluation:
        """Measure the test loss and the task's metrics of a plain state dict."""
        self.network.load_state_dict(dict(state), strict=False)
        sums: dict[str, float] = {}
        for x, y in batches.test_batches(self._dataset):
            for name, value in self._task.tally(self.network(x), y).items():
                sums[name] = sums.get(name, 0) + value
        if not sums["count"]:
            raise ConfigError(
                f"data.dataset: {self._dataset.name}: the test set has no target that counts; give some"
            )
        metrics = self._task.metrics(sums)
        loss = sums["loss"] / sums["count"]
        return Evaluation(through, metrics.get("error_percent"), loss, versions, metrics)


@torch.no_grad()
def estimate_statistics(network: nn.Module, inputs: Iterable[Signal]) -> None:
    """Set every BN's running statistics to their mean over these batches; other modules stay in eval mode."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for x in inputs:
        network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
