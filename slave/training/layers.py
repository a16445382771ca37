"""What trains a layer, put together: module, M, optimizers, replicas, unlock and trainer. No I/O.

A slave does it once a lease; the simulator does it for every seat of a run in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from common import synthesizers
from common.config.optimizer import SynthesizerOptimizerConfig
from common.config.sections import Config
from common.data import batches
from common.data.datasets import Dataset
from common.data.replicas import Place
from common.models import network
from common.models.network import Blueprint
from common.optim.stepper import AccruingStepper, Stepper
from common.shards.flat import Flat
from common.shards.working_copy import Replica
from common.synthesizers import GradientSynthesizer, VirtualForward
from common.wire.messages import JoinReply, Telemetry
from slave.training.compiling import compile_layer
from slave.training.decoupling import Layer, Predicting, Synthesizer, Synthesizing, Unlock
from slave.training.free import FreeTrainer
from slave.training.health import Fallback, Health
from slave.training.parts import Parts
from slave.training.served import ServedPredictor, ServedSynthesizer, Serving
from slave.training.trainer import Trainer
from slave.training.unlocks import build, find_builder
from slave.training.unlocks.full import FullUnlock, Predictor


@dataclass(frozen=True, eq=False)
class Seated:
    """One replica of a layer at work.

    Attributes:
        trainer: its protocol and, behind it, its unlock.
        flat: the layer's own state.
        replicas: its shards' copies, each with what steps it.
        health: what it knows of its own learning.
    """

    trainer: Trainer | FreeTrainer
    flat: Flat
    replicas: list[tuple[Replica, Stepper]]
    health: Health

    def telemetry(self) -> Telemetry:
        """What the trainer and the health say; not what is known of the machine."""
        trainer, health = self.trainer, self.health
        return Telemetry(
            steps=trainer.steps,
            next_batch=trainer.next_batch,
            lost_batches=trainer.lost_batches,
            in_flight=trainer.in_flight,
            delays=dict(trainer.delays),
            loss=health.loss,
            gradient_loss=health.gradient_loss,
            gradient_cosine=health.gradient_cosine,
            gradient_norm_ratio=health.gradient_norm_ratio,
            input_loss=health.input_loss,
            fallback=health.fallback,
        )


Shape = tuple[int, ...]
# Brings a replica that was just made to the master's version of its shard, or creates the shard.
Begin = Callable[[Replica], object]


def seated(
    config: Config,
    blueprint: Blueprint,
    dataset: Dataset,
    lease: JoinReply,
    begin: Begin,
    device: torch.device | str = "cpu",
    serving: Serving | None = None,
    *,
    compiled: bool = False,
) -> Seated:
    """The layer of a lease, ready to train.

    Args:
        config: of the run, resolved.
        blueprint: the network; the layer takes its own units of it, not copies.
        dataset: what x_b and y_b are made of.
        lease: which replica of which layer, and the first batch its weights have not seen.
        begin: called for every replica, in the order of `Seated.replicas`.
        device: where it computes.
        serving: what is asked where M runs in the master (served synthesis); None: M runs here.
        compiled: have `torch.compile` make the layer faster, before its first step.

    Raises:
        ConfigError: the layer cannot be compiled here.
    """
    fallback = config.decoupling.fallback_cosine
    health = Health(None if fallback is None else Fallback(fallback))
    return _Building(config, blueprint, dataset, lease, begin, device, health, serving, compiled).built()


def place(config: Config, lease: JoinReply) -> Place:
    """Which replica a lease is of, between those of the layers below and above."""
    k, counts = lease.layer, config.replicas
    below, above = counts[max(k - 2, 0)], counts[min(k, len(counts) - 1)]
    return Place(lease.replica, counts[k - 1], below, above, config.downpour.warm_start)


def trainer(
    config: Config,
    data: batches.Batches,
    lease: JoinReply,
    unlock: Unlock,
    shape_below: Shape | None = None,
    device: torch.device | str = "cpu",
) -> Trainer:
    """The protocol of a lease's layer around an unlock; `shape_below` as of `Trainer`."""
    k, layers = lease.layer, config.layers
    return Trainer(
        k,
        data,
        config.run.batches,
        unlock,
        window=0 if k == layers else config.decoupling.window(k, layers),
        window_below=config.decoupling.window(k - 1, layers),
        incarnation=lease.incarnation,
        next_batch=lease.next_batch,
        place=place(config, lease),
        shape_below=shape_below,
        device=device,
    )


def free(
    config: Config,
    data: batches.Batches,
    lease: JoinReply,
    unlock: FullUnlock,
    shapes: tuple[Shape, Shape],
    device: torch.device | str = "cpu",
) -> FreeTrainer:
    """The same where no layer waits for another; `shapes` as of `FreeTrainer`."""
    slots = config.decoupling.slots
    assert slots is not None
    return FreeTrainer(
        lease.layer,
        data,
        config.run.batches,
        unlock,
        top=lease.layer == config.layers,
        slots=slots,
        incarnation=lease.incarnation,
        next_batch=lease.next_batch,
        place=place(config, lease),
        shapes=shapes,
        device=device,
    )


def replica(config: Config, lease: JoinReply, shard: str, flat: Flat, stepper: Stepper) -> Replica:
    """The copy of a lease's shard, pushed and fetched as the configuration says."""
    accrued = stepper if isinstance(stepper, AccruingStepper) else None
    downpour = config.downpour
    others = accrued is not None or config.replicas[lease.layer - 1] > 1
    n_fetch = downpour.n_fetch if others else 0
    return Replica(shard, flat, downpour.n_push, lease.incarnation, n_fetch, accrued, lease.replica)


@dataclass(eq=False)
class _Building:
    config: Config
    blueprint: Blueprint
    dataset: Dataset
    lease: JoinReply
    begin: Begin
    device: torch.device | str
    health: Health
    serving: Serving | None
    compiled: bool
    replicas: list[tuple[Replica, Stepper]] = field(default_factory=list)

    def built(self) -> Seated:
        config, k = self.config, self.lease.layer
        cuts = config.network.cuts or []
        flat = Flat(network.layer(self.blueprint, cuts, k), self.device)
        flat.module.train()
        kind = AccruingStepper if config.downpour.accrues else Stepper
        stepper = self._stepped("weights", flat, config.optimizer, kind)
        layer = Layer(k, flat, stepper, config.run.seed, goes_down=config.decoupling.row.sends_down)
        data = batches.Batches(self.dataset, config.run.seed, config.run.batch_size)
        above = network.boundary(self.blueprint, cuts, k)
        below = network.boundary(self.blueprint, cuts, k - 1) if k > 1 else self.dataset.input_shape
        if self.compiled:
            compile_layer(layer, (config.run.batch_size, *below), self.device)
        parts = self._parts(layer, (below, above))
        made: Trainer | FreeTrainer
        if config.decoupling.slots is None:
            made = trainer(config, data, self.lease, build(parts), below, self.device)
        else:
            unlock = find_builder(parts)(parts)
            made = free(config, data, self.lease, unlock, (below, above), self.device)
        return Seated(made, flat, self.replicas, self.health)

    def _parts(self, layer: Layer, shapes: tuple[Shape, Shape]) -> Parts:
        below, above = shapes
        return Parts(
            self.config,
            layer,
            self.health,
            lambda: self._synthesizer(above),
            lambda: self._predictor(below),
            lambda: self._head(above),
        )

    def _predictor(self, shape: Shape) -> Predicting:
        inputs = self.dataset.input_shape
        if self.serving:
            return ServedPredictor(self.serving, self.lease.incarnation, shape, self.health)
        module = synthesizers.initial_input(self.config, self.lease.layer, inputs, shape)
        flat = Flat(module, self.device)
        return Predictor(module, flat, self._taught("input", flat), self.health)

    def _synthesizer(self, shape: Shape) -> Synthesizing:
        every, lease = self.config.decoupling.synthesizer_every, self.lease
        if self.serving:
            classes = self.dataset.classes
            return ServedSynthesizer(self.serving, lease.incarnation, classes, self.health, every)
        module = self._module(shape)
        flat = Flat(module, self.device)
        return Synthesizer(module, flat, self._taught("gradient", flat), self.health, every)

    def _head(self, shape: Shape) -> tuple[VirtualForward, Stepper]:
        module = self._module(shape)
        assert isinstance(module, VirtualForward)
        return module, self._taught("gradient", Flat(module, self.device))

    def _module(self, shape: Shape) -> GradientSynthesizer:
        return synthesizers.initial(self.config, self.lease.layer, shape, self.dataset.classes)

    def _taught(self, shard: str, flat: Flat) -> Stepper:
        return self._stepped(shard, flat, self.config.optimizer.synthesizer, Stepper)

    def _stepped(
        self, shard: str, flat: Flat, settings: SynthesizerOptimizerConfig, kind: type[Stepper]
    ) -> Stepper:
        """What steps a module, its replica begun."""
        stepper = kind(flat, settings, self.config.run.batches)
        made = replica(self.config, self.lease, f"{self.lease.layer}/{shard}", flat, stepper)
        self.begin(made)
        self.replicas.append((made, stepper))
        return stepper
