"""Measures the chain f_1..f_K on the test set. The master never runs models: whoever evaluates does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from common.config.sections import Config
from common.data import batches
from common.data.datasets import Dataset
from common.models import network
from common.models.network import Blueprint
from common.shards import flat
from common.shards.pushes import Buffer, Header
from common.wire.messages import Evaluation

Pull = Callable[[str], tuple[Header, Buffer]]


@dataclass(frozen=True)
class PulledNetwork:
    """The plain network's state at one vector of versions."""

    state: dict[str, Tensor]
    versions: dict[str, int]
    batches: int


# Batches that BN's statistics are estimated anew on.
ESTIMATED = 30


def pull_network(config: Config, pull: Pull) -> PulledNetwork:
    """Pull every layer's weights, and name them as the plain network does.

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
    """The plain network and the test set it is measured on."""

    def __init__(self, config: Config, dataset: Dataset, blueprint: Blueprint) -> None:
        self._config = config
        self._dataset = dataset
        self.network = nn.Sequential(*blueprint.units).eval()

    def pull(self, pull: Pull) -> PulledNetwork:
        """Pull every layer's weights, ready to be measured and kept.

        With unlock `full` BN's statistics are those of inputs that were made up: here they are estimated anew
        on the real chain, so the plain network has them. The same weights give the same statistics.

        Raises:
            NotFoundError: a layer has no weights yet.
        """
        pulled = pull_network(self._config, pull)
        if not self._config.decoupling.row.predicts:
            return pulled
        self.network.load_state_dict(pulled.state, strict=False)
        made = batches.Batches(self._dataset, self._config.run.seed, self._config.run.batch_size)
        estimate_statistics(self.network, map(made.inputs, range(ESTIMATED)))
        state = self.network.state_dict()
        return replace(pulled, state={name: state[name].clone() for name in pulled.state})

    def measure(self, pulled: PulledNetwork) -> Evaluation:
        """Test error in per cent and mean loss of a pulled network."""
        return self.measure_state(pulled.state, pulled.versions, pulled.batches)

    @torch.no_grad()
    def measure_state(
        self, state: Mapping[str, Tensor], versions: dict[str, int], through: int
    ) -> Evaluation:
        """The same of a plain state dict."""
        self.network.load_state_dict(dict(state), strict=False)
        wrong, loss, count = 0, 0.0, 0
        for x, y in batches.test_batches(self._dataset):
            logits = self.network(x)
            wrong += int((logits.argmax(1) != y).sum())
            loss += float(functional.cross_entropy(logits, y, reduction="sum"))
            count += len(y)
        return Evaluation(through, 100 * wrong / count, loss / count, versions)


@torch.no_grad()
def estimate_statistics(network: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Set every BN's running statistics to their plain mean over these batches, all else in evaluation."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
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
