"""Rivals of a cluster, in separate processes: `python -m benchmarks.rivals WAY [OPTIONS]`.

Plain back-propagation, DistributedDataParallel and the schedules of `torch.distributed.pipelining` over gloo,
on this project's networks from their initial state, with its batches and evaluator, and torch's own fused
optimizer. Rank 0 prints the result on standard output, as JSON. `benchmarks.racing` has further rivals.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleavedZeroBubble,
)
from torch.nn.parallel import DistributedDataParallel

from benchmarks.records import quality
from common import strict_json
from common.config import files
from common.config.optimizer import OptimizerConfig
from common.config.sections import Config
from common.data import datasets
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.lifecycle import end_with_parent, keep_freed_memory
from common.models import network
from common.signals.values import Signal, map_tensors
from common.tasks import Task
from deploy.evaluation.evaluator import Evaluator

# Pipelines and DistributedDataParallel have two processes.
RANKS = 2
SCHEDULES: dict[str, Callable[..., Any]] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    # With one stage a rank this is ZB1P (Qi et al. 2023). The class takes a list of stages.
    "zero-bubble": lambda stage, *rest, **named: ScheduleInterleavedZeroBubble([stage], *rest, **named),
}
FUSED: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class PreparedRun:
    """Data and network for every way.

    Attributes:
        config: resolved configuration.
        dataset: data set of x_b and y_b.
        batches: mini-batches of the run.
        units: units of the plain network, which are trained.
        shapes: shape of one example after each unit.
    """

    config: Config
    dataset: Dataset
    batches: Batches
    units: list[nn.Module]
    shapes: list[tuple[int, ...]]
    task: Task

    @staticmethod
    def prepare(settings: list[str]) -> PreparedRun:
        """Load the data, build the network, and cut where the costs of back-propagation balance."""
        config = files.load(None, [*settings, "decoupling.unlock=none"])
        dataset = datasets.of(config)
        blueprint = network.build(config, dataset.inputs, dataset.targets)
        config = network.cut(config, blueprint)
        batches = Batches.of(config, dataset)
        shapes = [form.only.shape for form in blueprint.forms]
        return PreparedRun(config, dataset, batches, blueprint.units, shapes, blueprint.task)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss over the examples, a scalar."""
        return self.task.total(output, target) / len(target)

    def evaluator(self) -> Callable[[dict[str, Tensor], int], dict[str, float]]:
        """Return a function from a plain state and a number of batches to the figure of its quality."""
        fresh = network.build(self.config, self.dataset.inputs, self.dataset.targets)
        evaluator = Evaluator(self.config, self.dataset, fresh)
        return lambda state, through: quality(evaluator.measure_state(state, {}, through).metrics)


class Rival(ABC):
    """A process of a rival way to train.

    Attributes:
        own: units that this rank trains.
        start: number of the first of these among the units of the network.
        optimizer: of these units.
        steps_together: batches that all ranks train in a step.
    """

    own: nn.Sequential
    optimizer: torch.optim.Optimizer
    start = 0
    steps_together = 1

    def __init__(self, prepared: PreparedRun) -> None:
        self._prepared = prepared
        self._whole = nn.Sequential(*prepared.units)

    @abstractmethod
    def step(self, batch: int) -> None:
        """Train on batch b."""

    def state(self) -> dict[str, Tensor]:
        """Return the plain network's state, valid on rank 0; every rank has to call."""
        return self._whole.state_dict()

    def part(self) -> dict[str, Tensor]:
        """Return this rank's part of the plain network's state; empty if there is nothing to see now."""
        return {
            network.plain_name([self.start], 2, name): tensor
            for name, tensor in self.own.state_dict().items()
        }

    def saved(self) -> dict[str, Any]:
        """Return the rank's state for a checkpoint."""
        return {"weights": self.own.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Put the rank back to a checkpoint."""
        self.own.load_state_dict(saved["weights"])
        self.optimizer.load_state_dict(saved["optimizer"])

    def finish(self) -> None:
        """Train on what is still under way after the last step."""
        return

    def _update(self, layers: Sequence[nn.Module]) -> None:
        """Step on the gradients that are there, each layer's clipped by itself, as a cluster clips."""
        if (norm := self._prepared.config.optimizer.clip_norm) is not None:
            for layer in layers:
                nn.utils.clip_grad_norm_(layer.parameters(), norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Plain(Rival):
    """Back-propagation in a single process, with or without `torch.compile`."""

    def __init__(self, prepared: PreparedRun, *, compiled: bool = False) -> None:
        super().__init__(prepared)
        self.own = self._whole.train()
        self._module: nn.Module = self.own
        self.optimizer = _optimizer(self._module, prepared.config.optimizer)
        cuts = [0, *(prepared.config.network.cuts or []), len(prepared.units)]
        self._layers = [nn.Sequential(*prepared.units[a:b]) for a, b in pairwise(cuts)]
        if compiled:
            self._module = cast(nn.Module, torch.compile(self._whole))

    def step(self, batch: int) -> None:
        """Train on batch b."""
        self._learn(self._prepared.batches.inputs(batch), self._prepared.batches.labels(batch))

    def _learn(self, x: Signal, y: Tensor) -> None:
        self._prepared.loss(self._module(x), y).backward()  # type: ignore[no-untyped-call]
        self._update(self._layers)

    def part(self) -> dict[str, Tensor]:
        """Return the whole network's state on rank 0: the ranks are alike."""
        return super().part() if _rank() == 0 else {}


class DataParallel(Plain):
    """DistributedDataParallel: rank r trains the r-th part of every batch; BN sees the rank's part alone."""

    def __init__(self, prepared: PreparedRun) -> None:
        super().__init__(prepared)
        # The fastest settings: no copy of the gradients beside its buckets, no broadcast of buffers.
        self._module = DistributedDataParallel(
            self._whole, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def step(self, batch: int) -> None:
        """Train on batch b."""
        rank, batches = dist.get_rank(), self._prepared.batches
        x = map_tensors(lambda tensor: tensor.chunk(RANKS)[rank], batches.inputs(batch))
        self._learn(x, batches.labels(batch).chunk(RANKS)[rank])


class Stage(Rival):
    """A rank of two that has the units below the cut, or those above."""

    def __init__(self, prepared: PreparedRun) -> None:
        super().__init__(prepared)
        (self.cut,) = prepared.config.network.cuts or []
        self.start, stop = [(0, self.cut), (self.cut, len(prepared.units))][dist.get_rank()]
        self.own = nn.Sequential(*prepared.units[self.start : stop]).train()


class Pipeline(Stage):
    """A schedule of `torch.distributed.pipelining`: a stage for each rank; BN sees one microbatch."""

    def __init__(self, prepared: PreparedRun, schedule: str, microbatches: int) -> None:
        super().__init__(prepared)
        self._first = dist.get_rank() == 0
        self._stages = nn.Sequential(*prepared.units[self.cut :])
        self.optimizer = _optimizer(self.own, prepared.config.optimizer)
        size = prepared.config.run.batch_size // microbatches
        shapes = [prepared.dataset.inputs.only.shape, prepared.shapes[self.cut - 1], prepared.shapes[-1]]
        dtypes = [getattr(torch, prepared.dataset.inputs.only.dtype), torch.float32, torch.float32]
        # Shapes are given, since a schedule that infers them passes uninitialized memory through BN in
        # training mode, which leaves running statistics of 1e35.
        input_args, output_args = (
            torch.empty(size, *shapes[place], dtype=dtypes[place], device="meta", requires_grad=place > 0)
            for place in (dist.get_rank(), dist.get_rank() + 1)
        )
        cpu = torch.device("cpu")
        rank = dist.get_rank()
        stage = PipelineStage(self.own, rank, RANKS, cpu, input_args=input_args, output_args=output_args)
        self._schedule = SCHEDULES[schedule](stage, microbatches, loss_fn=prepared.loss)

    def step(self, batch: int) -> None:
        """Train on batch b."""
        if self._first:
            self._schedule.step(self._prepared.batches.inputs(batch))
        else:
            self._schedule.step(target=self._prepared.batches.labels(batch), return_outputs=False)
        self._update([self.own])

    def state(self) -> dict[str, Tensor]:
        """Copy the second stage's tensors to rank 0, and return the plain network's state."""
        for tensor in self._stages.state_dict().values():
            if self._first:
                dist.recv(tensor, 1)
            else:
                dist.send(tensor, 0)
        return super().state()


def _optimizer(module: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    build = FUSED[settings.name]
    return build(
        module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def throughput(rival: Rival, prepared: PreparedRun, warm: int, began: Path | None) -> dict[str, Any]:
    """Train all of the run's batches; the clock starts, and `began` is created, after `warm` batches."""
    batches = prepared.config.run.batches
    for batch in range(warm):
        rival.step(batch)
    _barrier()
    if began:
        began.touch()
    since = time.perf_counter()
    for batch in range(warm, batches):
        rival.step(batch)
    _barrier()
    seconds = time.perf_counter() - since
    state = rival.state()
    samples = (batches - warm) * prepared.config.run.batch_size
    figure = prepared.evaluator()(state, batches) if _rank() == 0 else {}
    return {"samples_per_second": round(samples / seconds, 1), **figure}


def curve(rival: Rival, prepared: PreparedRun, every: int, target: float) -> list[tuple[int, float]]:
    """Measure the test error in per cent every n batches, to `target` or the end of the run."""
    errors: list[tuple[int, float]] = []
    measure = prepared.evaluator() if _rank() == 0 else None
    for batch in range(prepared.config.run.batches):
        rival.step(batch)
        if (batch + 1) % every:
            continue
        state = rival.state()
        if measure:
            errors.append((batch + 1, measure(state, batch + 1)["test_error_percent"]))
        if _broadcast(bool(errors) and errors[-1][1] <= target):
            break
    return errors


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def _broadcast(over: bool) -> bool:
    """Return rank 0's value on every rank."""
    if not dist.is_initialized():
        return over
    value = torch.tensor([over])
    dist.broadcast(value, 0)
    return bool(value)


def _build(way: str, prepared: PreparedRun, microbatches: int, *, compiled: bool) -> Rival:
    if way == "bp":
        return Plain(prepared, compiled=compiled)
    return DataParallel(prepared) if way == "ddp" else Pipeline(prepared, way, microbatches)


def serve(arguments: list[str]) -> None:
    """Run a process of a way to the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("way", choices=("bp", "ddp", *SCHEDULES), help="method to train by")
    parser.add_argument("--rank", type=int, default=0, help="number of this process")
    parser.add_argument("--meet", type=Path, help="file for the rendezvous of the processes")
    parser.add_argument("--threads", type=int, default=1, help="number of torch's threads")
    parser.add_argument("--microbatches", type=int, default=4, help="number of a pipeline's microbatches")
    parser.add_argument("--compile", action="store_true", help="with bp: use torch.compile")
    parser.add_argument("--warm", type=int, default=0, help="batches before the clock starts")
    parser.add_argument("--began", type=Path, help="file to create when the clock starts")
    parser.add_argument("--every", type=int, default=0, help="measure a curve, not a rate: evaluate every n")
    parser.add_argument("--target", type=float, default=0.0, help="test error in %% that ends a curve")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    if chosen.meet:
        where = f"file://{chosen.meet}"
        dist.init_process_group("gloo", init_method=where, rank=chosen.rank, world_size=RANKS)
    prepared = PreparedRun.prepare(chosen.settings)
    rival = _build(chosen.way, prepared, chosen.microbatches, compiled=chosen.compile)
    result: dict[str, Any]
    if chosen.every:
        result = {"curve": curve(rival, prepared, chosen.every, chosen.target)}
    else:
        result = throughput(rival, prepared, chosen.warm, chosen.began)
    if chosen.rank == 0:
        print(strict_json.encode(result), flush=True)
    if chosen.meet:
        dist.barrier()
        # Exit at once: destroying torch's group under the interpreter's lock may wait for a thread of the
        # group that waits for the lock.
        os._exit(0)


if __name__ == "__main__":
    end_with_parent()
    keep_freed_memory()
    with contextlib.suppress(KeyboardInterrupt):
        serve(sys.argv[1:])
