"""Rehearsal before a run: each unit's first steps in training mode, and the sizes of messages.

Finds what fails in every attempt before the first process starts, or before a slave's first step. The network
is built for the rehearsal alone, and random generators stay as they were.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.config.sections import OWN_V, Config
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.models import flow, network, synthesis
from common.models.feedback import check_maps
from common.models.network import Blueprint
from common.models.own_losses import check_losses, check_metrics, has_losses, has_metrics
from common.models.recurrent import Recurrent, is_recurrent
from common.models.user import describe
from common.shards import flat
from common.shards.table import WIRE_ITEMSIZES
from common.signals.forms import SignalForm
from common.signals.values import Signal, count, floats, is_finite, map_tensors, offer, split
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
    look: Callable[[], None] = lambda: None,
) -> None:
    """Check the messages of a run and the first steps of every unit, or of the units of layer k alone.

    This project's own units behave alike for any number of examples: two are enough. A user's unit, loss
    or v gets the run's first batch.

    Args:
        config: of the run, resolved.
        dataset: source of the first batch.
        most: bytes of the largest message between layers.
        code: folder in which a user's file is searched first.
        k: layer; None: all.
        device: computes.
        look: called before each unit; raises to end the rehearsal.

    Raises:
        ConfigError: a unit or a message cannot be used; names the unit and the key.
    """
    with _kept_generators(torch.device(device)):
        blueprint = network.build_initial(config, dataset.inputs, dataset.targets, code)
        check_messages(config, blueprint, most)
        if config.decoupling.feeds_back:
            check_maps(blueprint.units, config.network.model)
        batches = Batches.of(config, dataset)
        rows = None if {"network.model", "task.kind", OWN_V} & config.user_functions.keys() else 2
        h = map_tensors(lambda each: each[:rows].to(device), batches.inputs(0))
        x, y = split(h), batches.labels(0)[:rows].to(device)
        starts, count = [0, *(config.network.cuts or [])], len(blueprint.units)
        first, last = (0, count) if k is None else (starts[k - 1], [*starts, count][k])
        down, taught = _need_gradients(config, blueprint.units), _list_taught(config, blueprint)
        for place, unit in enumerate(blueprint.units[:last]):
            look()
            part = _Part(config, place + 1, unit.to(device).train(), blueprint.forms[place], down[place], y)
            ending = _Ending(blueprint.task, config.task.kind, y) if place + 1 == count else None
            h = part.pass_on(h) if place < first else part.play(h, ending)
            if config.decoupling.row.predicts and place + 1 in starts:
                part.check_unchanged(h, x)
            if place + 1 in taught:
                synthesis.check_lesson(config, blueprint.task, blueprint.v, h, y)
            # Gradients of the whole network would be as large as the network.
            unit.zero_grad()
            unit.to("cpu")


def check_messages(config: Config, blueprint: Blueprint, most: int) -> None:
    """Check that a batch fits into a message of `most` bytes, at every cut.

    Raises:
        ConfigError: the batch is too large.
    """
    if not config.cluster.distributed:
        return
    for cut in config.network.cuts or []:
        form = blueprint.forms[cut - 1]
        each = _example_bytes(config, form, blueprint)
        if each * config.run.batch_size > most - _BESIDE_BYTES:
            raise ConfigError(
                f"run.batch_size: {config.run.batch_size} examples of {form.describe_example()} after unit "
                f"{cut} of {config.network.model} take {each * config.run.batch_size >> 20} MiB a message, "
                f"which may have {most >> 20}; give at most {(most - _BESIDE_BYTES) // each}, or another cut "
                "by network.cuts"
            )


def _example_bytes(config: Config, form: SignalForm, blueprint: Blueprint) -> int:
    """Return the bytes of an example in the largest message of a boundary."""
    floats = _float_bytes(config, form)
    integers = form.nbytes - form.floats.nbytes
    sizes = [floats + integers, (2 if config.decoupling.row.predicts else 1) * floats]
    if config.decoupling.broadcasts:
        sizes.append(_float_bytes(config, blueprint.forms[-1]))
    if config.cluster.served:
        # Lessons for the master's M and I: (h, y, delta) and (x, h), as float32, y perhaps as int64.
        h = form.floats.nbytes
        sizes += [2 * h + 8 * math.prod(blueprint.task.targets.shape), blueprint.inputs.nbytes + h]
    return max(sizes)


def _float_bytes(config: Config, form: SignalForm) -> int:
    """Return the bytes of an example's float tensors, with a float32 scale beside each row."""
    itemsize = WIRE_ITEMSIZES[config.cluster.wire]
    return sum(each.size * itemsize + 4 for each in form.floats.tensors.values())


def _need_gradients(config: Config, units: Sequence[nn.Module]) -> list[bool]:
    """Tell for each unit whether something below it needs the gradient of its input."""
    cuts, needed = config.network.cuts or [], False
    found = []
    for place, unit in enumerate(units):
        if place in cuts:
            decoupling = config.decoupling
            needed = needed and decoupling.row.sends_down and not decoupling.broadcasts
        found.append(needed)
        needed = needed or network.learns(unit)
    return found


def _list_taught(config: Config, blueprint: Blueprint) -> list[int]:
    """List the last units of layers whose M or head has a lesson: with a user's v of all, of the lowest else.

    Without a user's loss or v there is none.
    """
    cuts, found = config.network.cuts or [], []
    if not {"task.kind", OWN_V} & config.user_functions.keys():
        return []
    for k, cut in enumerate(cuts, 1):
        headless = network.lacks_head(config, network.layer(blueprint, cuts, k))
        if network.wants_gradient(config, blueprint, k) and not headless:
            found.append(cut)
    return found if OWN_V in config.user_functions else found[:1]


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
    """Loss of the last unit: the task, its name, and the targets (B, ...) of the batch."""

    task: Task
    kind: str
    y: Tensor

    def delta(self, output: Tensor) -> Tensor:
        """Return the gradient of L at the network's output.

        Raises:
            ConfigError: the loss or its gradient is not finite.
        """
        total = self.task.total(output, self.y)
        (delta,) = torch.autograd.grad(total, output)
        if not all(bool(torch.isfinite(each).all()) for each in (total, delta)):
            raise ConfigError(
                f"task.kind: {self.kind}: gives a loss or a gradient with NaN or infinity at the first "
                "batch; scale the targets, or correct the function"
            )
        return delta


class _Part:
    """First steps of one unit."""

    def __init__(
        self,
        config: Config,
        number: int,
        unit: nn.Module,
        form: SignalForm,
        needs_down: bool,
        y: Tensor,
    ) -> None:
        self._unit = unit
        self._form = form
        self._needs_down = needs_down
        self._y = y
        self._seed = config.run.seed
        self._carries = config.time.window is not None and is_recurrent(unit)
        self._gradient = config.time.gradient if config.time.row.synthesizes else None
        self._place = (
            f"network.model: {config.network.model}: unit {number} ({describe(unit)}), in training mode with "
            f"run.batch_size = {config.run.batch_size},"
        )

    def pass_on(self, h: Signal) -> Signal:
        """Return the output for an input, without a check: the unit belongs to another slave."""
        with torch.no_grad():
            return self._forward(h)

    def check_unchanged(self, h: Signal, x: Mapping[str, Tensor]) -> None:
        """Check that integer tensors are the data's own: I, which predicts floats alone, takes them from x.

        Raises:
            ConfigError: one of them has other values.
        """
        for name, tensor in split(h).items():
            if not tensor.is_floating_point() and not torch.equal(tensor, x[name]):
                raise self._error(
                    f'gives "{name}" with other values than the data, but decoupling.unlock = "full" '
                    'predicts floats alone; pass it on unchanged, or choose "update"'
                )

    def play(self, h: Signal, ending: _Ending | None) -> Signal:
        """Check two steps, the second after the state of the first; return the first output.

        Args:
            h: input, of B examples.
            ending: loss of the last unit; None for the others.
        """
        unit, table = self._unit, flat.table_of(self._unit)
        frozen = [(each, each.detach().clone()) for each in unit.parameters() if not each.requires_grad]
        output = self._step(h, ending)
        self._check_metrics(output)
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
            if not network.learns(unit) or any(each.grad is not None for each in unit.parameters()):
                return output
            torch.default_generator.manual_seed(self._seed + attempt)
            self._step(h, ending)
        raise self._error(
            "gives no gradient to any of its parameters; compute with them and without torch.no_grad(), or "
            "fix them by requires_grad=False"
        )

    def _step(self, h: Signal, ending: _Ending | None) -> Signal:
        u = map_tensors(lambda each: each.detach().clone(), h)
        leaves = [each.requires_grad_(self._needs_down) for each in split(floats(u)).values()]
        before = flow.versions(u)
        output = self._forward(u)
        self._check_output(output, u)
        if flow.versions(u) != before:
            raise self._error(flow.CHANGES_INPUT)
        learned = [each for each in split(output).values() if each.requires_grad]
        if not learned and self._needs_down:
            raise self._error(_NO_GRADIENT)
        own = self._compute_losses(output)
        if not learned and not own:
            return output
        self._backward(learned, own, ending)
        if self._needs_down and all(each.grad is None for each in leaves):
            raise self._error(_NO_GRADIENT)
        gradients = [each.grad for each in self._unit.parameters() if each.grad is not None]
        if not all(bool(torch.isfinite(each).all()) for each in gradients):
            raise self._error("gives a gradient with NaN or infinity; scale its input, or correct the unit")
        return map_tensors(Tensor.detach, output)

    def _forward(self, u: Signal) -> Signal:
        try:
            output: Signal = self._unroll(offer(u)) if self._carries else self._unit(offer(u))
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            raise self._error(f"fails: {flow.first_line(error)}") from error
        return output

    def _unroll(self, u: Signal) -> Signal:
        """Return the output of a window from zeros, after a check of both states."""
        recurrent: nn.Module | Recurrent = self._unit
        assert is_recurrent(recurrent)
        device = next(iter(split(u).values())).device
        zeros = torch.zeros(count(u), recurrent.state_size, device=device)
        before = flow.versions(zeros)
        output, after = recurrent.unroll(u, zeros)
        if flow.versions(zeros) != before:
            raise self._error(
                "changes the state that it takes in place, which a second forward of the window needs; give "
                "the next state as a tensor of its own"
            )
        if not isinstance(after, Tensor) or (after.shape, after.dtype) != (zeros.shape, zeros.dtype):
            raise self._error(
                f"gives the next state as {flow.describe(after)}; it must give {flow.describe(zeros)}"
            )
        cut = torch.is_grad_enabled() and network.learns(self._unit) and not after.requires_grad
        if self._gradient and cut:
            raise self._error(
                f'gives a next state without a gradient, but time.gradient = "{self._gradient}" gives one to '
                "each; compute the state without torch.no_grad() and detach()"
            )
        given: Signal = output
        return given

    def _compute_losses(self, h: Signal) -> list[Tensor]:
        """Return the sum of the unit's own losses, where there are such that teach, after a check."""
        unit: object = self._unit
        if not has_losses(unit):
            return []
        losses = check_losses(self._call_own("losses", h), count(h), self._place)
        if not bool(torch.isfinite(losses).all()):
            raise self._error(
                "gives an own loss with NaN or infinity at the first batch; scale the data, or correct "
                "losses(h, y)"
            )
        if not losses.requires_grad and (self._needs_down or network.learns(self._unit)):
            raise self._error(
                "gives an own loss without a gradient; compute losses(h, y) from h by torch, without detach()"
            )
        return [losses.sum()] if losses.requires_grad else []

    def _check_metrics(self, h: Signal) -> None:
        if has_metrics(self._unit):
            with torch.no_grad():
                check_metrics(self._call_own("metrics", h), count(h), self._place)

    def _call_own(self, name: str, h: Signal) -> object:
        """Call the unit's own `losses` or `metrics`, which must leave h as it is."""
        call, before = f"{name}(h, y)", flow.versions(h)
        try:
            given: object = getattr(self._unit, name)(offer(h), self._y)
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            raise self._error(f"fails in {call}: {flow.first_line(error)}") from error
        if flow.versions(h) != before:
            raise self._error(f"changes h in place in {call}; h goes on to the next unit")
        return given

    def _backward(self, outputs: Sequence[Tensor], own: Sequence[Tensor], ending: _Ending | None) -> None:
        try:
            if ending is None:
                deltas = [torch.randn_like(each) for each in outputs]
            else:
                deltas = [ending.delta(each) for each in outputs]
            torch.autograd.backward([*outputs, *own], [*deltas, *[None] * len(own)])
        except ConfigError:  # of the task, which names its own key
            raise
        except (Exception, SystemExit) as error:
            raise self._error(
                f"fails in its backward: {flow.first_line(error)}; keep nothing of a batch's graph for "
                "the next"
            ) from error

    def _check_output(self, output: Signal, u: Signal) -> None:
        examples = count(u)
        if not flow.has_form(output, self._form, examples):
            due = flow.describe(self._form.blank(examples))
            raise self._error(f"gives {flow.describe(output)}; it must give {due}")
        if is_finite(u) and not is_finite(output):
            raise self._error("gives NaN or infinity at the first batch; scale the data, or correct the unit")

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"{self._place} {text}")


_NO_GRADIENT = (
    "passes no gradient back; compute without torch.no_grad() and detach(), or put a fixed unit into the "
    "first layer by network.cuts"
)
