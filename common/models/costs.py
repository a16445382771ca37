"""Counted costs of a layer, and the cuts with the cheapest costliest layer.

Costs are counted on a batch without data (torch's meta device), so that every machine counts alike. The unit
is a multiply-add of a matrix product; the rest has relative prices, measured once on a single core.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from common import synthesizers
from common.config.decoupling import DecouplingConfig, count_parts
from common.config.optimizers import OPTIMIZERS
from common.config.sections import Config
from common.config.time import TimeConfig
from common.config.unlocks import FORWARD
from common.models.recurrent import pass_on
from common.signals.forms import SignalForm
from common.signals.packing import InputPacking
from common.signals.values import map_floats, split
from common.synthesizers import BuildV, PropagatingRegression, Virtual
from common.tasks import Task

Counted = TypeVar("Counted")
# Cost of M in time for a layer of the units [start, stop).
Within = Callable[[int, int], float]

# Price of one number that an operation writes: the operation waits for memory, not for arithmetic.
NUMBER = 50.0
SLOW_NUMBERS = {
    "max_pool2d_with_indices": 1000.0,
    "avg_pool2d": 900.0,
    "avg_pool2d_backward": 275.0,
    "native_batch_norm": 180.0,
}


def unit_costs(
    units: Sequence[nn.Module],
    forms: Sequence[SignalForm],
    inputs: SignalForm,
    task: Task,
    batch_size: int,
    optimizer: str,
    played: int | None = None,
    look: Callable[[], None] = lambda: None,
) -> list[float]:
    """Count the multiply-adds of each unit in one training step.

    A step has a forward, the unit's own loss if there is one, the gradient in the weights, the gradient in
    the input (unnecessary for the first unit with parameters) and the optimizer's step.

    Args:
        units: units of the network.
        forms: of the signal after each unit.
        inputs: form of x.
        task: has the form of targets, which own losses take.
        batch_size: B.
        optimizer: name of the optimizer.
        played: examples on which a step is computed on the CPU, and counted; None: none, B are counted on
            torch's meta device, which imports torch's compiler.
        look: called before each unit; raises to end the counting.
    """
    costs = []
    learned = False
    for unit, taken in zip(units, [inputs, *forms], strict=False):
        look()
        parameters = sum(parameter.numel() for parameter in unit.parameters() if parameter.requires_grad)
        if played is None:
            work = _count_training(unit, taken, task, batch_size, gradient=learned)
        else:
            work = _play_training(unit, taken, task, batch_size, played, gradient=learned)
        costs.append(work + OPTIMIZERS[optimizer].price * parameters)
        learned = learned or parameters > 0
    return costs


def synthesizer_cost(config: Config, shape: tuple[int, ...], task: Task, v: BuildV | None = None) -> float:
    """Count the multiply-adds of M, or of a head, in one step: use, learning and optimizer.

    `shape` is the shape of one example of the layer's h, packed (`common.signals.packing`); `v` builds a
    user's v.
    """
    decoupling, batch_size = config.decoupling, config.run.batch_size
    if not (decoupling.row.synthesizes or decoupling.row.supervises):
        return 0.0
    synthesizer, work = _without_numbers(
        lambda device: _count_synthesizer(device, decoupling, shape, task, batch_size, v)
    )
    step = _count_step(synthesizer, config.optimizer.synthesizer.name)
    return work + count_parts(config.lesson_steps, batch_size) * step


def input_cost(
    decoupling: DecouplingConfig,
    inputs: SignalForm,
    shape: tuple[int, ...],
    batch_size: int,
    optimizer: str,
) -> float:
    """Count the multiply-adds of I in one step; `shape` is that of an example of the layer's packed input."""
    if not decoupling.row.predicts:
        return 0.0
    taken = InputPacking(inputs).taken
    with torch.device("meta"):
        synthesizer = synthesizers.build_input(decoupling, taken, shape)
        x = taken.blank(batch_size)
        with _count() as counter:
            synthesizer.learn(x, synthesizer.predict(x))
    return counter.work + _count_step(synthesizer, optimizer)


def time_cost(time: TimeConfig, size: int, batch_size: int, optimizer: str, layer: float) -> float:
    """Count the multiply-adds of M in time and its head in one step of a layer.

    Args:
        time: names M in time.
        size: S, the layer's numbers of state of a stream.
        batch_size: B.
        optimizer: name of M's optimizer.
        layer: multiply-adds of the layer's own step.
    """
    if not (time.row.synthesizes and size):
        return 0.0
    with torch.device("meta"):
        module = synthesizers.build_time(time, size)
        state = torch.zeros(batch_size, size, requires_grad=True)
        with _count() as counter:
            delta = module.synthesizer.gradient(state)
            module.synthesizer.learn(state, delta)
            for loss in module.auxiliary(state, delta):
                loss.backward()  # type: ignore[no-untyped-call]
    work = counter.work + _count_step(module, optimizer)
    if time.decay is not None:
        # A backward pass for each number of the state, and the products of the traces.
        traces = batch_size * size * sum(each.numel() for each in module.synthesizer.parameters())
        work += size * (1 - FORWARD) * layer + (size + 2 + 3 * NUMBER) * traces
    return work


def balance(
    units: Sequence[float],
    ends: Sequence[float],
    starts: Sequence[float],
    layers: int,
    within: Within = lambda start, stop: 0.0,  # noqa: ARG005
) -> list[int]:
    """Return the cuts into K layers whose costliest layer is cheapest: the slowest layer sets the pace.

    The cost of a layer is the sum over its units, plus M unless the layer is the last, plus I unless the
    layer is the first, plus M in time. Among equally good cuts, the earliest first cut wins, then the
    earliest second cut.

    Args:
        units: cost of each unit.
        ends: cost of M for a layer that ends after each unit but the last.
        starts: cost of I for a layer that starts after each unit but the last.
        layers: K, 1..len(units).
        within: cost of M in time for a layer of the units [start, stop).
    """
    count = len(units)
    assert 1 <= layers <= count
    cost = layer_cost(units, ends, starts, within)
    # rest[k][start]: lowest possible cost of the costliest of k layers over the units from `start`.
    rest = {1: {start: cost(start, count) for start in range(count)}}
    for k in range(2, layers + 1):
        rest[k] = {
            start: min(max(cost(start, stop), rest[k - 1][stop]) for stop in range(start + 1, count - k + 2))
            for start in range(count - k + 1)
        }
    cuts = [0]
    for k in range(layers, 1, -1):
        stops = range(cuts[-1] + 1, count - k + 2)
        pace = rest[layers][0]
        cuts.append(next(s for s in stops if max(cost(cuts[-1], s), rest[k - 1][s]) <= pace))
    return cuts[1:]


def layer_cost(
    units: Sequence[float], ends: Sequence[float], starts: Sequence[float], within: Within
) -> Callable[[int, int], float]:
    """Return the cost of a layer of the units [start, stop); arguments as of `balance`."""
    assert len(ends) == len(starts) == len(units) - 1
    totals = [0.0, *itertools.accumulate(units)]
    from_here, to_here = [0.0, *starts], [0.0, *ends, 0.0]

    def cost(start: int, stop: int) -> float:
        return from_here[start] + totals[stop] - totals[start] + to_here[stop] + within(start, stop)

    return cost


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sum of the costs of torch's operations in a `with` block; operations that write no number are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = 0.0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave torch's compiler alone, which nothing here calls: its import takes over a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.work += _count_operation(func, args, kwargs, out)
        return out


def _count_operation(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    packet = func.overloadpacket
    name = packet.__name__
    if packet is torch.ops.aten.convolution_backward:
        return _count_convolution_gradients(*args)
    product = flop_registry.get(packet) or flop_registry.get(
        getattr(torch.ops.aten, name.removesuffix("_"), None)
    )
    if product:
        return float(product(*args, **kwargs, out_val=out)) / 2
    if func.is_view or name.startswith("empty"):
        return 0.0
    numbers = sum(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
    return SLOW_NUMBERS.get(name, NUMBER) * numbers


def _count_convolution_gradients(
    delta: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *options: Any
) -> float:
    """Count forward's products for each gradient; torch's count ignores that groups divide the weight's."""
    transposed, wanted = options[4], options[7]
    forward = conv_flop_count(list(x.shape), list(weight.shape), list(delta.shape), transposed)
    return float(forward * sum(wanted[:2]) / 2)


def _without_numbers(count: Callable[[str], Counted]) -> Counted:
    """Return what `count` gives for a device: meta, where nothing is computed, or else the CPU."""
    try:
        return count("meta")
    except (Exception, SystemExit):
        # A user's forward or loss may read its numbers, and a meta tensor has none.
        return count("cpu")


def _count_synthesizer(
    device: str,
    decoupling: DecouplingConfig,
    shape: tuple[int, ...],
    task: Task,
    batch_size: int,
    v: BuildV | None,
) -> tuple[nn.Module, float]:
    """Count the use and the learning of a new M or head; the module has the gradients of the learning."""
    with torch.device(device):
        synthesizer = synthesizers.build(decoupling, shape, task, v)
        h = torch.zeros(batch_size, *shape)
        y = task.blank(batch_size)
        with _count() as counter:
            if decoupling.row.supervises:
                assert isinstance(synthesizer, Virtual)
                synthesizer.supervise(h, y)
            else:
                delta = synthesizer.gradient(h, y)
                if isinstance(synthesizer, PropagatingRegression):
                    synthesizer.propagate(h, y, delta)
                synthesizer.learn(h, y, delta)
    return synthesizer, counter.work


def _count_step(synthesizer: nn.Module, optimizer: str) -> float:
    learned = sum(p.numel() for p in synthesizer.parameters() if p.grad is not None)
    return OPTIMIZERS[optimizer].price * learned


@contextmanager
def _count() -> Iterator[_Counter]:
    with torch.random.fork_rng(devices=[]), _Counter() as counter:
        yield counter


def _count_training(
    unit: nn.Module, taken: SignalForm, task: Task, batch_size: int, *, gradient: bool
) -> float:
    """Count a forward and a backward of a batch; `gradient`: also in the input `taken`."""
    return _without_numbers(
        lambda device: _count_training_on(device, unit, taken, task, batch_size, gradient=gradient)
    )


def _play_training(
    unit: nn.Module, taken: SignalForm, task: Task, batch_size: int, played: int, *, gradient: bool
) -> float:
    """Count a step on the CPU, on few examples and on twice as many: a part of the work is for the batch."""
    few = _count_training_on("cpu", unit, taken, task, played, gradient=gradient)
    if played == batch_size:
        return few
    more = _count_training_on("cpu", unit, taken, task, 2 * played, gradient=gradient)
    return few + (more - few) * (batch_size - played) / played


def _count_training_on(
    device: str, unit: nn.Module, taken: SignalForm, task: Task, batch_size: int, *, gradient: bool
) -> float:
    unit = copy.deepcopy(unit).to(device).train()
    with torch.device(device), torch.enable_grad():
        x = map_floats(lambda each: each.requires_grad_(gradient), taken.blank(batch_size))
        inputs = [each for each in [*split(x).values(), *unit.parameters()] if each.requires_grad]
        y = task.blank(batch_size)
        with _count() as counter:
            h, _, _, losses = pass_on([unit], x, None, y)
            outputs = [each for each in [*split(h).values(), *losses] if each.requires_grad]
            if outputs:
                gradients = [torch.empty_like(each) for each in outputs]
                torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)
    return counter.work
