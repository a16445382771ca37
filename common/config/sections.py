"""Whole configuration of a run: sections, and checks across sections.

Nothing under `common.config` imports torch, so that a refused configuration answers at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tomli_w

from common.config.alignments import ALIGNMENTS
from common.config.cluster import ClusterConfig
from common.config.data import BLOCK, DATASETS, DataConfig, DataRow
from common.config.decoupling import DecouplingConfig
from common.config.downpour import DownpourConfig
from common.config.late import CORRECTIONS
from common.config.models import MODELS
from common.config.network import NetworkConfig
from common.config.optimizer import OptimizerConfig
from common.config.run import RunConfig
from common.config.security import SecurityConfig
from common.config.settings import check_heeded
from common.config.simulation import SimulationConfig
from common.config.task import TaskConfig
from common.config.tasks import CURRICULUM_METRICS, TASKS, sort_unit_metrics
from common.config.time import TimeConfig
from common.config.values import is_user_function
from common.errors import ConfigError

# Batches that no run reaches: a thousand batches a second for twenty years.
FAR = 1 << 40
# Leads of `full` where none is given: chosen by six layers of MNIST on two cores (docs/results.md), and over
# the batches that a layer may wait for another's with a curriculum.
LEAD, CURRICULUM_LEAD = 32, 128
# Key of a user's v, within a table of options.
OWN_V = "decoupling.gradient_options.v"


@dataclass(frozen=True)
class Config:
    """The configuration of a run."""

    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    decoupling: DecouplingConfig = dataclasses.field(default_factory=DecouplingConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    downpour: DownpourConfig = dataclasses.field(default_factory=DownpourConfig)
    cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)
    simulation: SimulationConfig = dataclasses.field(default_factory=SimulationConfig)
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    time: TimeConfig = dataclasses.field(default_factory=TimeConfig)
    security: SecurityConfig = dataclasses.field(default_factory=SecurityConfig)

    def __post_init__(self) -> None:
        check_heeded(self)
        self._check_time()
        self._check_correction()
        self._check_propagation()
        self._check_alignment()
        if self.downpour.warm_start >= self.run.batches:
            raise ConfigError(
                f"downpour.warm_start: {self.downpour.warm_start} of {self.run.batches} batches leaves none "
                "to the other replicas"
            )
        layers = self.network.layers if self.network.cuts is None else len(self.network.cuts) + 1
        if layers is not None:
            self.downpour.replicas_of(layers)
            self.cluster.compiled_of(layers)
            self.optimizer.check_layers(layers)
        if self.downpour.replicas_max is not None and self.fixes_replicas:
            raise ConfigError(
                "downpour.replicas_max: the number of replicas cannot change, because of "
                f"{self.fixes_replicas}; leave downpour.replicas_max out"
            )
        for name in ("task.kind", OWN_V):
            if self.cluster.served and name in self.user_functions:
                raise ConfigError(
                    f"cluster.synthesis: the master runs no function of a user, as M needs with {name} = "
                    f'"{self.user_functions[name]}"; choose another cluster.synthesis or {name}'
                )

    def _check_correction(self) -> None:
        """Check that the correction of late gradients has the optimizer whose steps it changes."""
        needed = CORRECTIONS[self.decoupling.correction].optimizer
        if needed and self.optimizer.name != needed:
            raise ConfigError(
                f'decoupling.correction: "{self.decoupling.correction}" changes the steps of '
                f'optimizer.name = "{needed}", not of "{self.optimizer.name}"; choose another of the two'
            )

    def _check_propagation(self) -> None:
        """Check that no M in time changes a gradient that M has sent down before."""
        if self.decoupling.propagates and self.time.row.synthesizes:
            raise ConfigError(
                f'time.gradient: "{self.time.gradient}" adds to the gradient that decoupling.gradient = '
                f'"{self.decoupling.gradient}" has sent down by then; leave time.gradient out, or choose '
                'decoupling.gradient = "cdni"'
            )

    def _check_alignment(self) -> None:
        """Check that a sum over the outputs tells anything."""
        aligned, task = self.decoupling.aligned, TASKS.get(self.task.kind)
        if aligned and aligned.sums and task and task.balanced:
            others = _choices(ALIGNMENTS.select(lambda row: not row.sums))
            raise ConfigError(
                f'decoupling.alignment: "{aligned.name}" adds the gradient up over the outputs, which gives '
                f'0 with task.kind = "{task.name}", a softmax; choose decoupling.alignment = {others}, or a '
                "task.kind of numbers"
            )

    def _check_time(self) -> None:
        """Check that the data have streams, and a built-in network a state, where windows are asked for."""
        if self.time.window is None:
            if self.curriculum:
                raise ConfigError(
                    f'time.window: is unset, but data.dataset = "{self.data.dataset}" has streams alone; '
                    "give time.window = T, the steps of a window"
                )
            if self.time.row.synthesizes:
                raise ConfigError(
                    f'time.gradient: "{self.time.gradient}" ends windows of a stream; give time.window = T, '
                    "or leave time.gradient out"
                )
            return
        row = DATASETS.get(self.data.dataset)
        if row is not None and row.curriculum:
            self._check_curriculum(row)
        if not is_user_function(self.data.dataset) and (row is None or not row.streams):
            raise ConfigError(
                f'time.window: data.dataset = "{self.data.dataset}" has no streams; choose data.dataset = '
                f"{_choices(DATASETS.select(lambda each: each.streams))} or a function of your own, or leave "
                "time.window out"
            )
        if self.data.context is not None:
            raise ConfigError(
                f"time.window: takes the place of data.context = {self.data.context}; give one of the two"
            )
        model = MODELS.get(self.network.model)
        if self.time.early and not (model and model.recurrent):
            raise ConfigError(
                f"time.aux_horizon: {self.time.aux_horizon} cuts windows in two, and a unit of "
                f"{self.network.model} may need its window whole; leave time.aux_horizon out"
            )
        if model is not None and not model.recurrent:
            raise ConfigError(
                f'time.window: network.model = "{self.network.model}" has no recurrent unit; choose '
                f"{_choices(MODELS.select(lambda each: each.recurrent))}, or leave time.window out"
            )

    def _check_curriculum(self, row: DataRow) -> None:
        if self.task.kind != row.task:
            raise ConfigError(
                f'task.kind: data.dataset = "{row.name}" brings its own task, "{row.task}"; leave task.kind '
                "out"
            )
        if self.decoupling.slots is not None and self.lead <= BLOCK:
            raise ConfigError(
                f'decoupling.lead: {self.lead} batches are too few for data.dataset = "{row.name}"'
                f", where a layer may wait until another has done {BLOCK}; give at least {BLOCK + 1}"
            )

    @property
    def lead(self) -> int:
        """Most batches that a layer of `full` trains without a message from a neighbour."""
        if self.decoupling.lead is not None:
            return self.decoupling.lead
        return CURRICULUM_LEAD if self.curriculum else LEAD

    @property
    def lesson_steps(self) -> int:
        """Steps of M, or of a head, on a batch that teaches it: 1 where a step takes several batches."""
        return self.decoupling.wanted_steps if self.optimizer.synthesizer.accumulate == 1 else 1

    @property
    def curriculum(self) -> bool:
        """Whether the run's examples become harder as the network learns."""
        row = DATASETS.get(self.data.dataset)
        return row is not None and row.curriculum

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of an evaluation, the one for screens first; some data lack some of them."""
        return (CURRICULUM_METRICS if self.curriculum else ()) + self.task.row.metrics

    def order_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of an evaluation in the order of `metrics`, then those of units.

        Unknown names are left out.
        """
        return {
            name: metrics[name] for name in [*self.metrics, *sort_unit_metrics(metrics)] if name in metrics
        }

    @property
    def groups(self) -> int | None:
        """Number of groups of streams, R: the least common multiple of the layers' replicas; None: none."""
        if self.time.window is None:
            return None
        replicas = self.downpour.replicas
        return math.lcm(*(replicas if isinstance(replicas, list) else [replicas]))

    @property
    def layers(self) -> int:
        """Number of layers K; the cuts must be known."""
        if self.network.cuts is None:
            raise AssertionError("the configuration's cuts are not resolved")
        return len(self.network.cuts) + 1

    @property
    def user_functions(self) -> dict[str, str]:
        """Functions in files of the user, as `path/to/file.py:function`, by the key that names them."""
        named = {
            "data.dataset": self.data.dataset,
            "network.model": self.network.model,
            "task.kind": self.task.kind,
            OWN_V: self.decoupling.own_v or "",
        }
        return {key: spec for key, spec in named.items() if is_user_function(spec)}

    @property
    def replicas(self) -> list[int]:
        """Number of replicas R by layer; the cuts must be known."""
        return self.downpour.replicas_of(self.layers)

    @property
    def fixes_replicas(self) -> str:
        """Part of the run that depends on the number of replicas for good; empty: the number may change."""
        if self.time.window is not None:
            return f"time.window = {self.time.window}: each replica carries the state of streams of its own"
        if self.downpour.outer:
            name = self.downpour.server_optimizer
            return f'downpour.server_optimizer = "{name}": its rounds are of R pushes'
        return ""

    @property
    def compiled(self) -> list[bool]:
        """Whether to compile, by layer; the cuts must be known."""
        return self.cluster.compiled_of(self.layers)

    @property
    def batch_bound(self) -> int:
        """Upper bound of batch numbers: the run's batches; with `full`, layers may go past the end."""
        return self.run.batches if self.decoupling.slots is None else FAR

    @property
    def shared(self) -> Config:
        """The configuration without what belongs to one machine: its certificates."""
        return dataclasses.replace(self, security=SecurityConfig())

    def with_cuts(self, cuts: list[int]) -> Config:
        """Return the configuration with these cuts."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, cuts=cuts, layers=None))

    def to_toml(self) -> str:
        """Return the configuration as TOML; keys that are unset are left out, and sections without keys."""
        sections = _drop_unset(dataclasses.asdict(self))
        return tomli_w.dumps({name: keys for name, keys in sections.items() if keys})


def _choices(names: Iterable[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)


def _drop_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _drop_unset(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }
