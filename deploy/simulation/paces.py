"""Computing times and message sizes of a layer, from counted costs and a rate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from common import synthesizers
from common.config.sections import Config
from common.config.unlocks import share_at_once
from common.data.datasets import Dataset
from common.models import costs, network
from common.models.network import Blueprint
from common.models.recurrent import pass_on, state_size
from common.optim.stepper import Stepper
from common.shards.flat import Flat, table_of
from common.shards.table import Table
from common.signals.packing import InputPacking, Packing
from common.signals.values import plain
from common.wire import precision

MEASURE_SECONDS = 1.0


@dataclass(frozen=True)
class Pace:
    """Times and sizes of one layer.

    Attributes:
        until_sent: seconds from taking an input until h_k is sent.
        step: seconds from taking an input until the end of the step.
        answer: seconds of computing for a gradient from above.
        up_nbytes: of h_k of a batch, on the wire.
        down_nbytes: of delta_k of a batch, likewise, the floats alone, or of dL/dp.
        shards: table of each shard of the layer.
        wants_gradient: whether the layer or a layer below has a use for a gradient.
    """

    until_sent: float
    step: float
    answer: float
    up_nbytes: int
    down_nbytes: int
    shards: dict[str, Table]
    wants_gradient: bool


def count_units(config: Config, blueprint: Blueprint) -> list[float]:
    """Count the multiply-adds of a training step, by unit."""
    return costs.unit_costs(
        blueprint.units,
        blueprint.forms,
        blueprint.inputs,
        blueprint.task,
        config.run.batch_size,
        config.optimizer.name,
    )


def shard_nbytes(found: Sequence[Pace], shard: str) -> int:
    """Return the bytes of a shard, by its name; 0 for a shard that paces do not know."""
    table = found[int(shard.partition("/")[0]) - 1].shards.get(shard)
    return table.nbytes if table is not None else 0


def paces(config: Config, blueprint: Blueprint) -> list[Pace]:
    """Return the paces of a resolved configuration's layers, the lowest first."""
    cuts = [0, *(config.network.cuts or []), len(blueprint.units)]
    units = count_units(config, blueprint)
    return [
        _pace(config, blueprint, k, sum(units[cuts[k - 1] : cuts[k]])) for k in range(1, config.layers + 1)
    ]


def alone(config: Config, dataset: Dataset) -> float:
    """Return the seconds of a batch on one machine with all layers."""
    layers = paces(config, network.build(config, dataset.inputs, dataset.targets))
    overheads = (config.layers - 1) * config.simulation.overhead_seconds
    return sum(pace.step + pace.answer for pace in layers) - overheads


def _pace(config: Config, blueprint: Blueprint, k: int, work: float) -> Pace:
    cuts, batch_size = config.network.cuts or [], config.run.batch_size
    above = network.boundary(blueprint, cuts, k)
    shape = Packing(above).shape
    shards = {f"{k}/weights": table_of(network.layer(blueprint, cuts, k))}
    synthesis = 0.0
    top, wants = k == config.layers, network.wants_gradient(config, blueprint, k)
    if wants and not top and not network.lacks_head(config, network.layer(blueprint, cuts, k)):
        synthesis = costs.synthesizer_cost(config, shape, blueprint.task, blueprint.v)
    if synthesis:
        # A user's v may read its numbers, and a meta tensor has none.
        with torch.device("cpu" if blueprint.v is not None else "meta"):
            module: nn.Module = synthesizers.build(config.decoupling, shape, blueprint.task, blueprint.v)
        shards[f"{k}/gradient"] = table_of(module)
    if config.decoupling.row.predicts and k > 1:
        below = Packing(network.boundary(blueprint, cuts, k - 1)).shape
        optimizer = config.optimizer.synthesizer.name
        work += costs.input_cost(config.decoupling, blueprint.inputs, below, batch_size, optimizer)
        with torch.device("meta"):
            taken = InputPacking(blueprint.inputs).taken
            module = synthesizers.build_input(config.decoupling, taken, below)
        shards[f"{k}/input"] = table_of(module)
    size = state_size(network.layer(blueprint, cuts, k)) if wants else 0
    if config.time.row.synthesizes and size:
        work += costs.time_cost(config.time, size, batch_size, config.optimizer.synthesizer.name, work)
        with torch.device("meta"):
            shards[f"{k}/time"] = table_of(synthesizers.build_time(config.time, size))
    share = share_at_once if top or not wants else config.decoupling.shares
    sent, step, answer = share(work, synthesis)
    settings = config.simulation
    falling = blueprint.forms[-1] if config.decoupling.broadcasts else above.floats
    up, down = (precision.signal_nbytes(form, batch_size, config.cluster.wire) for form in (above, falling))
    overhead = settings.overhead_seconds
    return Pace(
        overhead + sent / settings.rate,
        overhead + step / settings.rate,
        answer / settings.rate,
        up,
        down,
        shards,
        wants,
    )


def measure_rate(config: Config, blueprint: Blueprint) -> float:
    """Measure the multiply-adds a second of plain training, with the process' number of threads."""
    work = sum(count_units(config, blueprint))
    flat = Flat(nn.Sequential(*blueprint.units).train())
    stepper = Stepper(flat, config.optimizer, config.run.batches)
    x = blueprint.inputs.blank(config.run.batch_size)
    y = blueprint.task.blank(config.run.batch_size)
    took: list[float] = []
    while sum(took) < MEASURE_SECONDS or len(took) < 3:
        began = time.perf_counter()
        h, _, _, own = pass_on(blueprint.units, x, None, y)
        total = sum((losses.sum() for losses in own), blueprint.task.total(plain(h), y))
        total.backward()  # type: ignore[no-untyped-call]
        stepper.step(0)
        took.append(time.perf_counter() - began)
    return work / _median(took)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
