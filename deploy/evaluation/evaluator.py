"""Evaluation of the chain f_1..f_K on the test set, outside the master, which never runs models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.config.models import MODELS
from common.config.sections import Config
from common.data import batches
from common.data.copying import Episodes, Stage
from common.data.datasets import Dataset
from common.data.levels import Levels
from common.errors import ConfigError, NotFoundError
from common.models import network
from common.models.network import Blueprint
from common.shards import flat
from common.shards.pushes import Buffer, Header
from common.signals.values import Signal, plain
from common.wire.curriculum import Curriculum
from common.wire.messages import Evaluation
from deploy.evaluation.passage import Passage

Pull = Callable[[str], tuple[Header, Buffer]]
# Returns the present levels of a run.
Announce = Callable[[], Curriculum]


def announce_first() -> Curriculum:
    """Return the levels of a run's beginning."""
    return Levels().to_message()


@dataclass(frozen=True)
class PulledNetwork:
    """State of the plain network at a vector of versions, pulled from a master.

    Attributes:
        state: state dict.
        versions: of the shards.
        batches: number of batches that the network has learned from.
        stage: place in the curriculum; None: examples do not become harder.
        gradients: state of every M or head as "k.name", for a run with `run.keep`.
    """

    state: dict[str, Tensor]
    versions: dict[str, int]
    batches: int
    stage: Stage | None = None
    gradients: dict[str, Tensor] = field(default_factory=dict)


# Steps of a test stream that a built-in network takes at once.
JOINED_STEPS = 128
# Number of training batches on which BN's statistics are estimated.
STATISTICS_BATCHES = 30


def pull_network(config: Config, pull: Pull) -> PulledNetwork:
    """Pull every layer's weights, or their average as configured, with the names of the plain network.

    Raises:
        NotFoundError: a layer has no weights yet.
    """
    state: dict[str, Tensor] = {}
    versions: dict[str, int] = {}
    through: list[int] = []
    for k in range(1, config.layers + 1):
        header, buffer = pull(f"{k}/{config.run.evaluated}")
        versions[header.shard] = header.version
        through.append(header.next_batch)
        for name, tensor in flat.state_dict(header.table, buffer).items():
            state[network.plain_name(config.network.cuts or [], k, name)] = tensor
    return PulledNetwork(state, versions, min(*through, config.run.batches))


def pull_gradients(config: Config, pull: Pull) -> dict[str, Tensor]:
    """Pull every layer's M or head, with the names "k.name"; layers without one are passed over."""
    state: dict[str, Tensor] = {}
    for k in range(1, config.layers):
        try:
            header, buffer = pull(f"{k}/gradient")
        except NotFoundError:
            continue
        state |= {f"{k}.{name}": each for name, each in flat.state_dict(header.table, buffer).items()}
    return state


class Evaluator:
    """The plain network, with the test set that measures it."""

    def __init__(self, config: Config, dataset: Dataset, blueprint: Blueprint) -> None:
        self._config = config
        self._dataset = dataset
        self._task = blueprint.task
        self.network = nn.Sequential(*blueprint.units).eval()

    def pull(self, pull: Pull, announce: Announce = announce_first) -> PulledNetwork:
        """Pull every layer's weights, or their average as configured, and what else a run keeps.

        The levels are asked for behind the weights, so that they are those of all batches seen.

        With unlock `full`, BN's statistics come from predicted inputs, and beside averaged weights they are
        those of other weights. They are estimated anew on the real chain, so that the plain network has the
        right ones; equal weights give equal statistics.

        Raises:
            NotFoundError: a layer has no weights yet.
        """
        pulled = pull_network(self._config, pull)
        stage = self._find_stage(announce, pulled.batches)
        gradients = pull_gradients(self._config, pull) if self._config.run.keep else {}
        state = self._name_ties(pulled.state)
        pulled = replace(pulled, state=state, stage=stage, gradients=gradients)
        if not (self._config.decoupling.row.predicts or self._config.run.averages):
            return pulled
        self.network.load_state_dict(pulled.state, strict=False)
        config = self._config
        training = batches.Batches.of(config, self._dataset)
        # Of streams the first group's windows, which follow each other.
        numbers = range(0, STATISTICS_BATCHES * (config.groups or 1), config.groups or 1)
        first = filter(training.has, numbers)
        estimate_statistics(self.network, map(training.inputs, first), self._passage())
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
        return self.measure_state(pulled.state, pulled.versions, pulled.batches, pulled.stage)

    def _find_stage(self, announce: Announce, batches: int) -> Stage | None:
        """Return the stage of a network that has learned from `batches` batches; None without levels."""
        if not isinstance(self._dataset.test, Episodes):
            return None
        return Stage.of(Levels.of(announce()), batches, repeats=self._dataset.test.repeats)

    @torch.no_grad()
    def measure_state(
        self, state: Mapping[str, Tensor], versions: dict[str, int], through: int, stage: Stage | None = None
    ) -> Evaluation:
        """Measure the test loss and the task's metrics and those of units, of a plain state dict.

        Args:
            state: of the network.
            versions: of the shards, for the result.
            through: batches that the network has learned from.
            stage: place in the curriculum, whose level the test examples have; None: there are no levels.

        Raises:
            ConfigError: the test set has no target that counts.
        """
        self.network.load_state_dict(dict(state), strict=False)
        sums: dict[str, float] = {}
        compute = self._passage()
        for x, y in self._test_batches(stage):
            for name, value in self._task.tally(plain(compute.measure(x, y)), y).items():
                sums[name] = sums.get(name, 0) + value
        if not sums["count"]:
            raise ConfigError(
                f"data.dataset: {self._dataset.name}: the test set has no target that counts; give some"
            )
        metrics = {**(stage.metrics if stage else {}), **self._task.metrics(sums), **compute.means()}
        loss = sums["loss"] / sums["count"]
        return Evaluation(through, metrics.get("error_percent"), loss, versions, metrics)

    def _passage(self) -> Passage:
        """Return the map from inputs to outputs; over streams the state goes on from call to call."""
        return Passage(self.network, carries=self._config.time.window is not None)

    def _test_batches(self, stage: Stage | None) -> Iterator[tuple[Signal, Tensor]]:
        if self._config.time.window is None:
            return batches.test_batches(self._dataset)
        # A user's network may give an output for windows of T steps alone.
        row = MODELS.get(self._config.network.model)
        joined = JOINED_STEPS // self._config.time.window if row and row.recurrent else 1
        return batches.test_windows(self._dataset, joined=joined, level=stage.level - 1 if stage else 0)


@torch.no_grad()
def estimate_statistics(
    network: nn.Module, inputs: Iterable[Signal], passage: Callable[[Signal], Signal] | None = None
) -> None:
    """Set every BN's running statistics to their mean over these batches; other modules stay in eval mode.

    Args:
        network: its norms are set.
        inputs: x of each batch.
        passage: maps x to the network's output; None: the network itself.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for x in inputs:
        (passage or network)(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
