"""Rehearsal before a run: each unit's first steps in training mode, and the sizes of messages.

Finds what fails in every attempt before the first process starts, or before a slave's first step. The network
is built for the rehearsal alone, and random generators stay as they were.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.config.sections import Config
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.data.inputs import Inputs
from common.data.targets import Targets
from common.errors import ConfigError
from common.models import network
from common.models.network import Blueprint
from common.models.user import describe
from common.shards import flat
from common.shards.table import BOUNDARY_ITEMSIZES
from common.tasks import Task

# Of a message beside the tensors: the table, the scales of examples by the thousand.
_BESIDE_BYTES = 64 << 10
# A unit may skip its own work at random, as stochastic depth does.
_ATTEMPTS = 8


def rehearse(
    config: Config,
    dataset: Dataset,
    most: int,
    code: Path | None = None,
    k: int | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Check the messages of a run and the first steps of every unit, or of the units of layer k alone.

    This project's own units behave alike for any number of examples: two are enough. A user's unit or loss
    gets the run's first batch.

    Args:
        config: of the run, resolved.
        dataset: source of the first batch.
        most: bytes of the largest message between layers.
        code: folder in which a user's file is searched first.
        k: layer; None: all.
        device: computes.

    Raises:
        ConfigError: a unit or a message cannot be used; names the unit and the key.
    """
    with _kept_generators(torch.device(device)):
        blueprint = network.build(config, dataset.inputs, dataset.targets, code)
        check_messages(config, blueprint, most)
        batches = Batches(dataset, config.run.seed, config.run.batch_size)
        rows = None if {"network.model", "task.kind"} & config.user_functions.keys() else 2
        h, y = batches.inputs(0)[:rows].to(device), batches.labels(0)[:rows].to(device)
        starts, count = [0, *(config.network.cuts or [])], len(blueprint.units)
        first, last = (0, count) if k is None else (starts[k - 1], [*starts, count][k])
        down = _need_gradients(config, blueprint.units)
        for place, unit in enumerate(blueprint.units[:last]):
            part = _Part(config, place + 1, unit.to(device).train(), blueprint.shapes[place], down[place])
            ending = _Ending(blueprint.task, y) if place + 1 == count else None
            h = part.pass_on(h) if place < first else part.play(h, ending)
            unit.to("cpu")


def check_messages(config: Config, blueprint: Blueprint, most: int) -> None:
    """Check that a batch fits into a message of `most` bytes, at every cut.

    Raises:
        ConfigError: the batch is too large.
    """
    if not config.cluster.distributed:
        return
    for cut in config.network.cuts or []:
        shape = blueprint.shapes[cut - 1]
        each = _example_bytes(config, shape, blueprint.inputs, blueprint.task.targets)
        if each * config.run.batch_size > most - _BESIDE_BYTES:
            raise ConfigError(
                f"run.batch_size: {config.run.batch_size} examples of {shape} after unit {cut} of "
                f"{config.network.model} take {each * config.run.batch_size >> 20} MiB a message, which may "
                f"have {most >> 20}; give at most {(most - _BESIDE_BYTES) // each}, or another cut by "
                "network.cuts"
            )


def _example_bytes(config: Config, shape: tuple[int, ...], inputs: Inputs, targets: Targets) -> int:
    """Return the bytes of an example in the largest message of a boundary."""
    h, x = math.prod(shape), inputs.nbytes
    tensors = 2 if config.decoupling.row.predicts else 1
    sizes = [tensors * (h * BOUNDARY_ITEMSIZES[config.cluster.wire] + 4)]
    if config.cluster.served:
        # Lessons for the master's M and I: (h, y, delta) and (x, h), as float32, y perhaps as int64.
        sizes += [8 * (h + math.prod(targets.shape)), x + 4 * h]
    return max(sizes)


def _need_gradients(config: Config, units: Sequence[nn.Module]) -> list[bool]:
    """Tell for each unit whether something below it needs the gradient of its input."""
    cuts, needed = config.network.cuts or [], False
    found = []
    for place, unit in enumerate(units):
        if place in cuts:
            needed = config.decoupling.row.sends_down
        found.append(needed)
        needed = needed or _is_trained(unit)
    return found


def _is_trained(unit: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in unit.parameters())


@contextlib.contextmanager
def _kept_generators(device: torch.device) -> Iterator[None]:
    """Restore the states of all global random generators at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@dataclass(frozen=True, eq=False)
class _Ending:
    """Loss of the last unit: the task and the targets (B, ...) of the batch."""

    task: Task
    y: Tensor


class _Part:
    """First steps of one unit."""

    def __init__(
        self, config: Config, number: int, unit: nn.Module, shape: tuple[int, ...], needs_down: bool
    ) -> None:
        self._unit = unit
        self._shape = shape
        self._needs_down = needs_down
        self._seed = config.run.seed
        self._place = (
            f"network.model: {config.network.model}: unit {number} ({describe(unit)}), in training mode with "
            f"run.batch_size = {config.run.batch_size},"
        )

    def pass_on(self, h: Tensor) -> Tensor:
        """Return the output for an input, without a check: the unit belongs to another slave."""
        with torch.no_grad():
            return self._forward(h)

    def play(self, h: Tensor, ending: _Ending | None) -> Tensor:
        """Check two steps, the second after the state of the first; return the first output.

        Args:
            h: input, (B, ...).
            ending: loss of the last unit; None for the others.
        """
        unit, table = self._unit, flat.table_of(self._unit)
        frozen = [(each, each.detach().clone()) for each in unit.parameters() if not each.requires_grad]
        output = self._step(h, ending)
        if flat.table_of(unit) != table:
            raise self._error(
                "changes names, shapes or dtypes of its parameters or buffers; keep them as they were built"
            )
        if not all(torch.equal(now, before) for now, before in frozen):
            raise self._error(
                "changes a parameter that has requires_grad=False, and no push would carry the change; make "
                "the parameter a buffer by register_buffer"
            )
        self._step(h, ending)
        for attempt in range(_ATTEMPTS):
            if not _is_trained(unit) or any(each.grad is not None for each in unit.parameters()):
                return output
            torch.default_generator.manual_seed(self._seed + attempt)
            self._step(h, ending)
        raise self._error(
            "gives no gradient to any of its parameters; compute with them and without torch.no_grad(), or "
            "fix them by requires_grad=False"
        )

    def _step(self, h: Tensor, ending: _Ending | None) -> Tensor:
        u = h.detach().clone().requires_grad_(self._needs_down)
        version = u._version
        output = self._forward(u)
        self._check_output(output, u)
        if u._version != version:
            raise self._error("changes its input in place, which belongs to another unit; use inplace=False")
        if not output.requires_grad:
            if self._needs_down:
                raise self._error(_NO_GRADIENT)
            return output.detach()
        self._backward(output, ending)
        if self._needs_down and u.grad is None:
            raise self._error(_NO_GRADIENT)
        gradients = [each.grad for each in self._unit.parameters() if each.grad is not None]
        if not all(bool(torch.isfinite(each).all()) for each in gradients):
            raise self._error("gives a gradient with NaN or infinity; scale its input, or correct the unit")
        return output.detach()

    def _forward(self, u: Tensor) -> Tensor:
        try:
            output: Tensor = self._unit(u)
        except (Exception, SystemExit) as error:
            raise self._error(f"fails: {_first_line(error)}") from error
        return output

    def _backward(self, output: Tensor, ending: _Ending | None) -> None:
        try:
            if ending is None:
                output.backward(torch.randn_like(output))  # type: ignore[no-untyped-call]
            else:
                ending.task.total(output, ending.y).backward()  # type: ignore[no-untyped-call]
        except ConfigError:  # of the task, which names its own key
            raise
        except (Exception, SystemExit) as error:
            raise self._error(
                f"fails in its backward: {_first_line(error)}; keep nothing of a batch's graph for the next"
            ) from error

    def _check_output(self, output: object, u: Tensor) -> None:
        due = (len(u), *self._shape)
        if not isinstance(output, Tensor) or output.dtype != torch.float32 or tuple(output.shape) != due:
            raise self._error(f"gives {_describe(output)}; it must give float32 {due}")
        if bool(torch.isfinite(u).all()) and not bool(torch.isfinite(output).all()):
            raise self._error("gives NaN or infinity at the first batch; scale the data, or correct the unit")

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"{self._place} {text}")


_NO_GRADIENT = (
    "passes no gradient back; compute without torch.no_grad() and detach(), or put a fixed unit into the "
    "first layer by network.cuts"
)


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
