"""Composition of a layer at work: module, M, optimizers, working copies, unlock and trainer. No I/O.

A slave composes one layer a lease, the simulator and the synchronous profile every layer of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from common import synthesizers
from common.config.optimizer import SynthesizerOptimizerConfig
from common.config.profiles import AUTOCASTS
from common.config.sections import Config
from common.data import batches
from common.data.datasets import Dataset
from common.data.replicas import BatchRoutes
from common.data.streams import StreamOrder
from common.models import network
from common.models.feedback import check_maps, feed_back
from common.models.flow import list_units
from common.models.network import Blueprint
from common.models.recurrent import state_size
from common.optim.stepper import AccruingStepper, Stepper
from common.shards.backup import Backup
from common.shards.flat import Flat
from common.shards.table import Precision
from common.shards.working_copy import WorkingCopy
from common.signals.forms import SignalForm
from common.signals.packing import InputPacking, Packing
from common.signals.values import plain
from common.synthesizers import GradientSynthesizer, Virtual
from common.wire.messages import JoinReply
from slave.training import unlocks
from slave.training.admission import Admission
from slave.training.carried import Carried, CarriedState
from slave.training.compiling import compile_layer
from slave.training.decoupling import (
    PackedPredictor,
    PackedSynthesizer,
    Predicting,
    Synthesizer,
    TensorPredictor,
    TensorSynthesizer,
    Unlock,
)
from slave.training.device import IN_MEMORY, Transfers
from slave.training.free import FreeTrainer
from slave.training.future import Chains, Future
from slave.training.gathered import Gathered
from slave.training.health import Fallback, Health
from slave.training.layer import Layer
from slave.training.moments import Moments
from slave.training.parts import Parts
from slave.training.scores import Scores
from slave.training.served import ServedPredictor, ServedSynthesizer, Serving
from slave.training.trained import TrainedLayer, Trainer
from slave.training.trainer import WindowedTrainer
from slave.training.unlocks.full import FullUnlock, Predictor

# Brings a new working copy to the master's version of its shard, or creates the shard.
Begin = Callable[[WorkingCopy], object]


def build(
    config: Config,
    blueprint: Blueprint,
    dataset: Dataset,
    lease: JoinReply,
    begin: Begin | None,
    device: torch.device | str = "cpu",
    serving: Serving | None = None,
    *,
    compiled: bool = False,
) -> TrainedLayer:
    """Compose the layer of a lease, ready to train.

    Args:
        config: of the run, resolved.
        blueprint: the network; the layer takes units, not copies.
        dataset: source of x_b and y_b.
        lease: layer, replica, and the first batch that the weights have not seen.
        begin: called for every working copy, in the order of `TrainedLayer.copies`; None: no working copies.
        device: trains the layer.
        serving: the master's M and I (served synthesis); None: M and I run here.
        compiled: have `torch.compile` make the layer faster, before the first step.

    Raises:
        ConfigError: the layer cannot be compiled here.
    """
    fallback = config.decoupling.fallback_cosine
    health = Health(None if fallback is None else Fallback(fallback))
    return _Composition(config, blueprint, dataset, lease, begin, device, health, serving, compiled).build()


def windowed_trainer(
    config: Config,
    data: batches.Batches,
    lease: JoinReply,
    unlock: Unlock,
    below: SignalForm | None = None,
    transfers: Transfers = IN_MEMORY,
) -> WindowedTrainer:
    """Return the trainer of a lease's layer around an unlock; `below` as of `WindowedTrainer`."""
    k, layers = lease.layer, config.layers
    return WindowedTrainer(
        k,
        data,
        config.run.batches,
        unlock,
        window=0 if k == layers else config.decoupling.window(k, layers),
        window_below=config.decoupling.window(k - 1, layers),
        incarnation=lease.incarnation,
        next_batch=lease.next_batch,
        routes=BatchRoutes.of(config, k, lease.replica),
        below=below,
        transfers=transfers,
    )


def free_trainer(
    config: Config,
    data: batches.Batches,
    lease: JoinReply,
    unlock: FullUnlock,
    forms: tuple[SignalForm, SignalForm],
    transfers: Transfers = IN_MEMORY,
) -> FreeTrainer:
    """Return the trainer of a layer under unlock `full`; `forms` as of `FreeTrainer`."""
    slots = config.decoupling.slots
    assert slots is not None
    return FreeTrainer(
        lease.layer,
        data,
        config.run.batches,
        unlock,
        top=lease.layer == config.layers,
        slots=slots,
        lead=config.lead,
        incarnation=lease.incarnation,
        next_batch=lease.next_batch,
        routes=BatchRoutes.of(config, lease.layer, lease.replica),
        forms=forms,
        transfers=transfers,
    )


def working_copy(config: Config, lease: JoinReply, shard: str, flat: Flat, stepper: Stepper) -> WorkingCopy:
    """Return the copy of a lease's shard, pushed and fetched as the configuration says."""
    accrued = stepper if isinstance(stepper, AccruingStepper) else None
    downpour = config.downpour
    weights = shard.endswith("/weights")
    outer = downpour.outer and weights
    others = accrued is not None or outer or config.replicas[lease.layer - 1] > 1
    n_fetch = downpour.n_fetch if others else 0
    return WorkingCopy(
        shard,
        flat,
        downpour.first_n_push,
        lease.incarnation,
        n_fetch,
        accrued,
        lease.replica,
        outer=outer,
        precision=Precision[downpour.precision.upper()],
        fragments=downpour.cut if weights else 0,
        blend=downpour.blend if weights else 0.0,
    )


def backups(config: Config, lease: JoinReply, trained: TrainedLayer) -> list[Backup]:
    """Return the working copies of the backups: `k/optimizer`, and `k/state-r` of a layer with a state."""
    every, k, replica = config.cluster.backup_steps, lease.layer, lease.replica
    if not every:
        return []
    moments = Moments({copy.name.partition("/")[2]: stepper for copy, stepper in trained.copies})
    kept: dict[str, Gathered] = {f"{k}/optimizer": moments}
    if trained.layer.carried:
        own = range(replica, config.groups or 1, config.replicas[k - 1])
        kept[f"{k}/state-{replica}"] = CarriedState(trained.layer.carried, own)
    return [
        Backup(name, state, every, lease.incarnation, replica=replica)
        for name, state in kept.items()
        if state.table.tensors
    ]


@dataclass(eq=False)
class _Composition:
    config: Config
    blueprint: Blueprint
    dataset: Dataset
    lease: JoinReply
    begin: Begin | None
    device: torch.device | str
    health: Health
    serving: Serving | None
    compiled: bool
    copies: list[tuple[WorkingCopy, Stepper]] = field(default_factory=list)
    flats: dict[str, Flat] = field(default_factory=dict)

    def build(self) -> TrainedLayer:
        config, k = self.config, self.lease.layer
        cuts = config.network.cuts or []
        flat = Flat(network.layer(self.blueprint, cuts, k), self.device)
        flat.module.train()
        decoupling, first_unit = config.decoupling, [0, *cuts][k - 1] + 1
        if decoupling.feeds_back:
            units = list_units(flat.module)
            # A slave of a master that `train` has not started has no rehearsal.
            check_maps(units, config.network.model, first_unit)
            feed_back(units, first_unit, config.run.seed, self.device)
        data = batches.Batches.of(config, self.dataset)
        data.learn(self.lease.curriculum)
        scores = self._scores(data)
        kind = AccruingStepper if config.downpour.accrues else Stepper
        stepper = self._stepped("weights", flat, config.optimizer.of_layer(k), kind)
        dtype = AUTOCASTS[config.cluster.autocast].dtype
        carried = self._carried(list_units(flat.module), data)
        teaches_below = decoupling.row.sends_down and self._wants_gradient(k - 1)
        layer = Layer(
            k,
            flat,
            stepper,
            config.run.seed,
            goes_down=teaches_below and not decoupling.broadcasts,
            teaches_below=teaches_below,
            first_unit=first_unit,
            autocast=getattr(torch, dtype) if dtype else None,
            carried=carried,
            future=self._future(carried, data.streams) if carried and data.streams else None,
            health=self.health,
        )
        below, above = (network.boundary(self.blueprint, cuts, each) for each in (k - 1, k))
        transfers = Transfers.of(self.device, config)
        if self.compiled:
            size = config.run.batch_size
            blank, y = transfers.arrive(below.blank(size)), transfers.arrive(self.blueprint.task.blank(size))
            compile_layer(layer, blank, plain(y))
        parts = self._parts(layer, (below, above), scores)
        trainer: Trainer
        if config.decoupling.slots is None:
            unlock = unlocks.build(parts)
            trainer = windowed_trainer(config, data, self.lease, unlock, below, transfers)
        else:
            free_unlock = unlocks.find_builder(parts)(parts)
            trainer = free_trainer(config, data, self.lease, free_unlock, (below, above), transfers)
        if self.lease.end:
            trainer.end_at(self.lease.end)
        if layer.carried:
            layer.carried.next_batch = lambda: trainer.next_batch
        gradient = self._output if decoupling.broadcasts else above.floats
        routes = BatchRoutes.of(config, k, self.lease.replica)
        admission = Admission(config, k, routes, below, gradient)
        return TrainedLayer(trainer, layer, self.copies, self.health, admission, data, scores, self.flats)

    @property
    def _output(self) -> SignalForm:
        """Form of the network's output."""
        return network.boundary(self.blueprint, self.config.network.cuts or [], self.config.layers)

    def _scores(self, data: batches.Batches) -> Scores | None:
        """Return the record of the losses on which levels depend, of layer K."""
        lease, config = self.lease, self.config
        if data.levels is None or lease.layer < config.layers:
            return None
        routes = BatchRoutes.of(config, lease.layer, lease.replica)
        return Scores(self.blueprint.task, data, routes, lease.next_batch)

    def _parts(self, layer: Layer, forms: tuple[SignalForm, SignalForm], scores: Scores | None) -> Parts:
        below, above = forms
        return Parts(
            self.config,
            layer,
            self.health,
            self.blueprint.task,
            above,
            self._output,
            self._wants_gradient(layer.k),
            lambda: self._synthesizer(above),
            lambda: self._predictor(below),
            lambda: self._head(above),
            scores,
        )

    def _wants_gradient(self, k: int) -> bool:
        return k > 0 and network.wants_gradient(self.config, self.blueprint, k)

    def _carried(self, units: Iterable[nn.Module], data: batches.Batches) -> Carried | None:
        """Return the states of a layer with recurrent units, where batches are windows of streams."""
        size = state_size(units)
        return Carried(size, data.streams, data.size, self.device) if data.streams and size else None

    def _future(self, carried: Carried, streams: StreamOrder) -> Future | None:
        """Return M in time of a layer with a state, where the layer or a layer below has a use for it."""
        time, k = self.config.time, self.lease.layer
        if not (time.row.synthesizes and self._wants_gradient(k)):
            return None
        module = synthesizers.initial_time(self.config, k, carried.size)
        chains = None if time.decay is None else Chains(module, time.decay, streams)
        stepper = self._taught("time", Flat(module, self.device))
        return Future(module, stepper, self.health, time.early, chains)

    def _predictor(self, below: SignalForm) -> Predicting:
        inputs = self.blueprint.inputs
        taken, shape = InputPacking(inputs).taken, Packing(below).shape
        predictor: TensorPredictor
        if self.serving:
            incarnation = self.lease.incarnation
            predictor = ServedPredictor(self.serving, incarnation, taken.vocabulary, shape, self.health)
        else:
            module = synthesizers.initial_input(self.config, self.lease.layer, taken, shape)
            flat = Flat(module, self.device)
            predictor = Predictor(module, flat, self._taught("input", flat), self.health)
        return PackedPredictor(predictor, inputs, below)

    def _synthesizer(self, above: SignalForm) -> PackedSynthesizer:
        packing = Packing(above)
        every, lease = self.config.decoupling.synthesizer_every, self.lease
        synthesizer: TensorSynthesizer
        if self.serving:
            classes = self.blueprint.task.targets.classes
            synthesizer = ServedSynthesizer(self.serving, lease.incarnation, classes, self.health, every)
        else:
            module = self._module(packing)
            flat = Flat(module, self.device)
            seed, stepper = synthesizers.draw_seed(self.config, lease.layer), self._taught("gradient", flat)
            steps = self.config.lesson_steps
            synthesizer = Synthesizer(module, flat, stepper, self.health, every, steps, seed)
        return PackedSynthesizer(synthesizer, packing)

    def _head(self, above: SignalForm) -> tuple[Virtual, Stepper]:
        module = self._module(Packing(above))
        assert isinstance(module, Virtual)
        return module, self._taught("gradient", Flat(module, self.device))

    def _module(self, packing: Packing) -> GradientSynthesizer:
        network = self.blueprint
        return synthesizers.initial(self.config, self.lease.layer, packing.shape, network.task, network.v)

    def _taught(self, shard: str, flat: Flat) -> Stepper:
        return self._stepped(shard, flat, self.config.optimizer.synthesizer, Stepper)

    def _stepped(
        self, shard: str, flat: Flat, settings: SynthesizerOptimizerConfig, kind: type[Stepper]
    ) -> Stepper:
        """Return the stepper of a module, once the module's working copy has begun."""
        stepper = kind(flat, settings, self.config.run.batches)
        self.flats[shard] = flat
        if self.begin is not None:
            copy = working_copy(self.config, self.lease, f"{self.lease.layer}/{shard}", flat, stepper)
            self.begin(copy)
            self.copies.append((copy, stepper))
        return stepper
