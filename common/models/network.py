"""Networks from the configuration, and cuts into layers.

A network is a list of units, in plain form `nn.Sequential(*units)`; layer k is the `nn.Sequential` of the
units between two cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import tasks
from common.config.sections import Config
from common.config.values import is_user_function
from common.data.inputs import Inputs
from common.data.targets import Targets
from common.errors import ConfigError
from common.models import builtin, costs, user
from common.shards import flat
from common.tasks import Task


@dataclass(frozen=True)
class Blueprint:
    """Network: units, and the shape of one example after every unit.

    Attributes:
        units: the smallest parts that a cut can fall between.
        shapes: shapes[i] is the shape of one example after unit i + 1; the last is the task's output.
        task: of the run, with the shape of the network's output.
        inputs: form of the examples that the first unit takes.
    """

    units: list[nn.Module]
    shapes: list[tuple[int, ...]]
    task: Task
    inputs: Inputs


def build(config: Config, inputs: Inputs, targets: Targets, code: Path | None = None) -> Blueprint:
    """Build the configuration's network, initialised from `run.seed`: equal in every process.

    Args:
        config: configuration of the run.
        inputs: form of the examples of the data.
        targets: facts about the targets of the data.
        code: folder in which a user's file is searched first, by its bare name.

    Raises:
        ConfigError: a unit fails, or units do not fit each other, a shard, the data or the task.
    """
    where = f"network.model: {config.network.model}"
    task = tasks.build(config.task, targets, code)
    with torch.random.fork_rng(devices=[]):
        # Seeds the CPU's generator alone: torch.manual_seed would also reseed the caller's accelerators.
        torch.default_generator.manual_seed(config.run.seed)
        if is_user_function(config.network.model):
            units = user.build(config.network, inputs.shape, task.outputs, code)
        else:
            options = config.network.model_options()
            units = builtin.build(config.network.model, options, inputs.shape, task.outputs)
        shapes = _shapes(units, inputs, where)
    _check_state(units, where)
    return Blueprint(units, shapes, task.fit(shapes[-1], f"{where}: the last unit"), inputs)


def cut(config: Config, blueprint: Blueprint) -> Config:
    """Return the configuration with cuts: as given, balanced by counted cost, or one layer a unit.

    Raises:
        ConfigError: the network has too few units, layers share state, or the last layer learns nothing.
    """
    config = _choose_cuts(config, blueprint)
    _check_ties(config, blueprint)
    _check_last_layer(config, blueprint)
    return config


def _choose_cuts(config: Config, blueprint: Blueprint) -> Config:
    count = len(blueprint.units)
    cuts, layers = config.network.cuts, config.network.layers
    if cuts is not None:
        if cuts and cuts[-1] >= count:
            raise ConfigError(
                f"network.cuts: {cuts} goes past the {count} units of {config.network.model}; "
                f"cut after unit {count - 1} at the latest"
            )
        return config.with_cuts(cuts)
    if layers is None or layers == count:
        return config.with_cuts(list(range(1, count)))
    if layers > count:
        raise ConfigError(
            f"network.layers: {layers} layers cannot be cut from the {count} units of "
            f"{config.network.model}; at most {count}"
        )
    batch_size = config.run.batch_size
    units = costs.unit_costs(
        blueprint.units, blueprint.shapes, blueprint.inputs, batch_size, config.optimizer.name
    )
    optimizer = config.optimizer.synthesizer.name
    boundaries = blueprint.shapes[:-1]
    task = blueprint.task
    ends = [costs.synthesizer_cost(config.decoupling, h, task, batch_size, optimizer) for h in boundaries]
    starts = [
        costs.input_cost(config.decoupling, blueprint.inputs, h, batch_size, optimizer) for h in boundaries
    ]
    return config.with_cuts(costs.balance(units, ends, starts, layers))


def _check_ties(config: Config, blueprint: Blueprint) -> None:
    """Check that units with a common parameter or buffer belong to one layer, whose shard keeps it."""
    cuts = config.network.cuts or []
    owners: dict[int, tuple[int, str]] = {}
    for number, unit in enumerate(blueprint.units, 1):
        for name, tensor in [*unit.named_parameters(), *unit.named_buffers()]:
            first, known = owners.setdefault(id(tensor), (number, name))
            if any(first <= cut < number for cut in cuts):
                raise ConfigError(
                    f"network.cuts: {cuts} parts units {first} and {number} of {config.network.model}, which "
                    f"share {known} (tied weights), but each layer owns its parameters; cut below unit "
                    f"{first} or after unit {number}, or give each unit a parameter of its own"
                )


def _check_last_layer(config: Config, blueprint: Blueprint) -> None:
    """Check that some layer learns the task where layers below the last one learn by their own loss alone."""
    last = layer(blueprint, config.network.cuts or [], config.layers)
    if config.decoupling.row.sends_down or any(p.requires_grad for p in last.parameters()):
        return
    raise ConfigError(
        f"network.cuts: {config.network.cuts} leaves the last layer no parameters to train, and with "
        f'decoupling.unlock = "{config.decoupling.unlock}" no other layer learns from the loss of the '
        "network; cut below the last unit that has parameters"
    )


def layer(blueprint: Blueprint, cuts: Sequence[int], k: int) -> nn.Sequential:
    """Return layer k, 1..K, made of the blueprint's own units, not of copies."""
    start, stop = _span(cuts, k, len(blueprint.units))
    return nn.Sequential(*blueprint.units[start:stop])


def boundary(blueprint: Blueprint, cuts: Sequence[int], k: int) -> tuple[int, ...]:
    """Return the shape of one example of h_k, k in 1..K."""
    return blueprint.shapes[_span(cuts, k, len(blueprint.units))[1] - 1]


def plain_name(cuts: Sequence[int], k: int, name: str) -> str:
    """Translate a tensor's name in layer k to the plain network's: "0.0.weight" may become "2.0.weight"."""
    unit, dot, rest = name.partition(".")
    return f"{int(unit) + [0, *cuts][k - 1]}{dot}{rest}"


def _span(cuts: Sequence[int], k: int, units: int) -> tuple[int, int]:
    assert 1 <= k <= len(cuts) + 1
    return [0, *cuts][k - 1], [*cuts, units][k - 1]


@torch.no_grad()
def _shapes(units: Sequence[nn.Module], inputs: Inputs, where: str) -> list[tuple[int, ...]]:
    """Return the shapes of one example after the units, by passing two examples of zeros through."""
    h = inputs.blank(2)
    shapes = []
    for number, unit in enumerate(units, 1):
        place = f"{where}: unit {number} ({user.describe(unit)})"
        taken, version = h, h._version
        try:
            h = unit.eval()(taken)
        except Exception as error:
            text = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(
                f"{place} cannot take {_format_batch(tuple(taken.shape[1:]))}: {text}"
            ) from error
        finally:
            unit.train()
        if taken._version != version:
            raise ConfigError(
                f"{place} changes its input in place, which belongs to another unit; use inplace=False"
            )
        if not isinstance(h, torch.Tensor) or h.dtype != torch.float32 or h.shape[:1] != (2,):
            raise ConfigError(
                f"{place} gives {_describe_result(h)} for 2 examples; it must give float32 (2, ...)"
            )
        shapes.append(tuple(h.shape[1:]))
    return shapes


def _check_state(units: Sequence[nn.Module], where: str) -> None:
    """Check that the state of every unit fits a shard."""
    for number, unit in enumerate(units, 1):
        try:
            flat.table_of(unit)
        except ConfigError as error:
            raise ConfigError(f"{where}: unit {number} ({user.describe(unit)}): {error}") from None
    if not any(p.requires_grad for unit in units for p in unit.parameters()):
        raise ConfigError(f"{where}: has no parameters to train; return at least one module that has some")


def _format_batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['B', *map(str, shape)])})"


def _describe_result(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
