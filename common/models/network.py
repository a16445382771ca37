"""Networks from the configuration, and cuts into layers.

A network is a list of units, in plain form `nn.Sequential(*units)`; layer k is the `nn.Sequential` of the
units between two cuts. A unit takes and returns a signal: a tensor, or a dict of tensors.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common import synthesizers, tasks
from common.config.sections import Config
from common.config.values import is_user_function
from common.data.targets import Targets
from common.errors import ConfigError
from common.models import builtin, costs, flow, user
from common.models.initial import load_initial
from common.models.own_losses import check_nested, is_supervised
from common.models.own_v import OwnV
from common.models.recurrent import is_recurrent, state_size
from common.shards import flat
from common.signals.forms import SignalForm
from common.signals.packing import InputPacking, Packing
from common.synthesizers import BuildV
from common.tasks import Task

# Of the eligibility traces of M in time of a layer.
MOST_TRACE_BYTES = 1 << 30


@dataclass(frozen=True)
class Blueprint:
    """Network: units, and the form of the signal after every unit.

    Attributes:
        units: the smallest parts that a cut can fall between.
        forms: forms[i] is the form after unit i + 1; the last is a tensor, the task's output.
        task: of the run, with the shape of the network's output.
        inputs: form of the examples that the first unit takes.
        v: builds the user's v of M or of a head; None: v is built in, or there is none.
    """

    units: list[nn.Module]
    forms: list[SignalForm]
    task: Task
    inputs: SignalForm
    v: BuildV | None = None


def build(config: Config, inputs: SignalForm, targets: Targets, code: Path | None = None) -> Blueprint:
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
            units = user.build(config.network, inputs, task.outputs, code)
        else:
            options = config.network.model_options()
            units = builtin.build(config.network.model, options, inputs.only.shape, task.outputs)
        forms = flow.find_forms(units, inputs, where)
    _check_state(units, where)
    check_nested(units, where)
    if config.time.window is not None:
        _check_recurrent(units, where)
    last = f"{where}: the last unit"
    if not forms[-1].is_plain:
        raise ConfigError(f"{last} gives {forms[-1].describe()}; it must give a tensor, the network's output")
    own = config.decoupling.own_v
    v = None if own is None else OwnV(own, code)
    return Blueprint(units, forms, task.fit(forms[-1].only.shape, last), inputs, v)


def build_initial(
    config: Config, inputs: SignalForm, targets: Targets, code: Path | None = None
) -> Blueprint:
    """Build the network with the weights that training begins from: `network.initial`'s, if given.

    Arguments are those of `build`.

    Raises:
        ConfigError: as of `build`, or the file of the weights is missing or another network's.
    """
    blueprint = build(config, inputs, targets, code)
    load_initial(config, blueprint.units, code)
    return blueprint


def cut(config: Config, blueprint: Blueprint) -> Config:
    """Return the configuration with cuts: as given, balanced by counted cost, or one layer a unit.

    Raises:
        ConfigError: the network has too few units, layers share state, or the last layer learns nothing.
    """
    config = _choose_cuts(config, blueprint)
    _check_ties(config, blueprint)
    _check_predicted(config, blueprint)
    _check_traces(config, blueprint)
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
    units, ends, starts, within = _count_parts(config, blueprint)
    return config.with_cuts(costs.balance(units, ends, starts, layers, within))


def count_work(config: Config, blueprint: Blueprint, look: Callable[[], None] = lambda: None) -> list[float]:
    """Count the multiply-adds of a batch by layer, without those of M and I; the cuts are known.

    As in a rehearsal, two examples are enough but for a user's units. `look` is called before each unit, and
    raises to end the counting.
    """
    batch_size = config.run.batch_size
    own = {"network.model", "task.kind"} & config.user_functions.keys()
    units = costs.unit_costs(
        blueprint.units,
        blueprint.forms,
        blueprint.inputs,
        blueprint.task,
        batch_size,
        config.optimizer.name,
        batch_size if own else min(2, batch_size),
        look,
    )
    cuts = [0, *(config.network.cuts or []), len(blueprint.units)]
    return [sum(units[start:stop]) for start, stop in itertools.pairwise(cuts)]


def _count_parts(
    config: Config, blueprint: Blueprint
) -> tuple[list[float], list[float], list[float], costs.Within]:
    """Count the costs of units, of M and I at each boundary, and of M in time: arguments of `balance`."""
    count, batch_size = len(blueprint.units), config.run.batch_size
    units = costs.unit_costs(
        blueprint.units, blueprint.forms, blueprint.inputs, blueprint.task, batch_size, config.optimizer.name
    )
    optimizer = config.optimizer.synthesizer.name
    boundaries = [Packing(form).shape for form in blueprint.forms[:-1]]
    # A layer has no M where nothing learns up to its end.
    fixed = len(list(itertools.takewhile(lambda unit: not learns(unit), blueprint.units)))
    ends = [0.0] * min(fixed, len(boundaries)) + _count_ends(config, blueprint, boundaries, fixed)
    starts = [
        costs.input_cost(config.decoupling, blueprint.inputs, h, batch_size, optimizer) for h in boundaries
    ]

    @functools.cache
    def within(start: int, stop: int) -> float:
        layer = blueprint.units[start:stop]
        size = state_size(layer) if stop > fixed else 0
        headless = stop < count and lacks_head(config, layer)
        cost = costs.time_cost(config.time, size, batch_size, optimizer, sum(units[start:stop]))
        return cost - (ends[stop - 1] if headless else 0.0)

    return units, ends, starts, within


def _count_ends(
    config: Config, blueprint: Blueprint, boundaries: Sequence[tuple[int, ...]], fixed: int
) -> list[float]:
    """Count the costs of M at each boundary behind the first `fixed`.

    Raises:
        ConfigError: a user's v cannot be used; one that fits some boundaries asks for cuts at these.
    """
    found: list[float] = []
    refused: dict[int, ConfigError] = {}
    for number, h in enumerate(boundaries[fixed:], fixed + 1):
        try:
            cost = costs.synthesizer_cost(config, h, blueprint.task, blueprint.v)
        except ConfigError as error:
            refused[number] = error
        else:
            found.append(cost)
    for number, refusal in refused.items():
        if found and config.decoupling.own_v is not None:
            raise ConfigError(
                f"{refusal}; network.layers = {config.network.layers} tries v after each unit, here after "
                f"unit {number}: give network.cuts after units that v fits"
            ) from refusal
        raise refusal
    return found


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


def _check_traces(config: Config, blueprint: Blueprint) -> None:
    """Check that the eligibility traces of M in time fit into memory."""
    if config.time.decay is None:
        return
    for k in range(1, config.layers + 1):
        size = state_size(layer(blueprint, config.network.cuts or [], k))
        if not size:
            continue
        with torch.device("meta"):
            module = synthesizers.build_time(config.time, size).synthesizer
        numbers = config.run.batch_size * size * sum(each.numel() for each in module.parameters())
        if 4 * numbers > MOST_TRACE_BYTES:
            raise ConfigError(
                f'time.gradient: "{config.time.gradient}" keeps {numbers:,} numbers in layer {k}, one for '
                f"each stream, number of its state ({size:,}) and parameter of M, {4 * numbers >> 20:,} MiB; "
                f'at most {MOST_TRACE_BYTES >> 20:,} are allowed; choose "dni", a smaller network, or fewer '
                "streams (run.batch_size)"
            )


def _check_predicted(config: Config, blueprint: Blueprint) -> None:
    """Check that I can give a layer its whole input: floats are predicted, integer tensors are those of x."""
    if not config.decoupling.row.predicts or config.layers == 1:
        return
    taken = InputPacking(blueprint.inputs).taken
    for place in config.network.cuts or []:
        h = blueprint.forms[place - 1]
        with torch.device("meta"):
            synthesizers.build_input(config.decoupling, taken, Packing(h).shape)
        for name, form in h.tensors.items():
            given = blueprint.inputs.tensors.get(name)
            if form.floating or (given and (given.shape, given.dtype) == (form.shape, form.dtype)):
                continue
            raise ConfigError(
                f"decoupling.unlock: full predicts floats alone, but unit {place} of {config.network.model} "
                f'passes on "{name}", {form.describe()}, which is no tensor of the data; choose "update", or '
                "another cut by network.cuts"
            )


def _check_last_layer(config: Config, blueprint: Blueprint) -> None:
    """Check that some layer learns the task where layers below the last one learn by their own loss alone."""
    last = layer(blueprint, config.network.cuts or [], config.layers)
    if config.decoupling.row.sends_down or learns(last):
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


def boundary(blueprint: Blueprint, cuts: Sequence[int], k: int) -> SignalForm:
    """Return the form of h_k, k in 0..K; h_0 is x."""
    return blueprint.forms[_span(cuts, k, len(blueprint.units))[1] - 1] if k else blueprint.inputs


def wants_gradient(config: Config, blueprint: Blueprint, k: int) -> bool:
    """Whether layer k, or a layer below that it sends gradients to, learns from a gradient at h_k."""
    first = 1 if config.decoupling.row.sends_down else k
    cuts = config.network.cuts or []
    return any(learns(unit) for each in range(first, k + 1) for unit in layer(blueprint, cuts, each))


def lacks_head(config: Config, layer: Iterable[nn.Module]) -> bool:
    """Whether a layer has no head under an unlock that gives heads: its units' own losses take the place."""
    return config.decoupling.row.supervises and is_supervised(layer)


def learns(module: nn.Module) -> bool:
    """Whether a module has a parameter that is not frozen."""
    return any(parameter.requires_grad for parameter in module.parameters())


def plain_name(cuts: Sequence[int], k: int, name: str) -> str:
    """Translate a tensor's name in layer k to the plain network's: "0.0.weight" may become "2.0.weight"."""
    unit, dot, rest = name.partition(".")
    return f"{int(unit) + [0, *cuts][k - 1]}{dot}{rest}"


def _span(cuts: Sequence[int], k: int, units: int) -> tuple[int, int]:
    assert 1 <= k <= len(cuts) + 1
    return [0, *cuts][k - 1], [*cuts, units][k - 1]


def _check_recurrent(units: Sequence[nn.Module], where: str) -> None:
    """Check that a network on streams has a unit that carries a state, of a known size."""
    recurrent = False
    for number, unit in enumerate(units, 1):
        name = f"{where}: unit {number} ({user.describe(unit)})"
        found = next(filter(is_recurrent, unit.modules()), None)
        if found is None:
            continue
        if not is_recurrent(unit):
            raise ConfigError(
                f"{name} holds a recurrent module ({type(found).__name__}), whose state nothing would carry "
                "to the next window; make that a unit of its own, or give the unit state_size and "
                "unroll(x, state)"
            )
        recurrent = True
        if not isinstance(found.state_size, int) or found.state_size < 1:
            raise ConfigError(
                f"{name} has state_size = {found.state_size!r}; give the numbers of state of a stream, at "
                "least 1"
            )
    if not recurrent:
        raise ConfigError(
            f"time.window: {where.removeprefix('network.model: ')} has no recurrent unit, a module with "
            "state_size and unroll(x, state); add one, or leave time.window out"
        )


def _check_state(units: Sequence[nn.Module], where: str) -> None:
    """Check that the state of every unit fits a shard."""
    for number, unit in enumerate(units, 1):
        try:
            flat.table_of(unit)
        except ConfigError as error:
            raise ConfigError(f"{where}: unit {number} ({user.describe(unit)}): {error}") from None
    if not any(map(learns, units)):
        raise ConfigError(f"{where}: has no parameters to train; return at least one module that has some")
