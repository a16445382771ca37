"""The run's configuration: frozen dataclasses, TOML in and out, every check at load.

Imports no torch: a refused configuration answers at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tomli_w

from common.config import settings
from common.config.downpour import Downpour
from common.config.options import (
    AUGMENTS,
    DATASETS,
    GRADIENTS,
    INPUTS,
    MODELS,
    GradientOptions,
    InputOptions,
    ModelOptions,
)
from common.config.settings import is_user_function, key, one_a_layer
from common.config.simulation import Simulation
from common.errors import ConfigError
from common.shards.table import BOUNDARY_ITEMSIZES


@dataclass(frozen=True)
class Run:
    """How long to train, on what batches."""

    name: str = key("layerwise", "name of the run, used for its folder")
    seed: int = key(0, "seed of the parameters, the batches and everything else that is random", minimum=0)
    batches: int = key(800, "mini-batches that every layer goes through", minimum=1)
    batch_size: int = key(64, "examples a mini-batch (B)", minimum=2)
    evaluate_every: int = key(200, "batches between two evaluations on the test set", minimum=1)

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not self.name or Path(self.name).name != self.name:
            raise ConfigError(
                f"run.name: {self.name!r} cannot name a folder; use plain words without slashes"
            )


@dataclass(frozen=True)
class Data:
    """The data set."""

    dataset: str = key(
        "digits",
        "digits, mnist, fashion-mnist, cifar10, or path/to/file.py:function",
        choices=DATASETS,
        user_function=True,
    )
    path: str | None = key(
        None, "folder that holds the data set's files; unset: downloaded to the user's cache"
    )
    augment: str = key(
        "none",
        "none, or crop-flip: images to train on moved by up to 4 pixels and mirrored at random",
        choices=AUGMENTS,
    )


@dataclass(frozen=True)
class Network:
    """The network and where it is cut into layers."""

    model: str = key(
        "mlp",
        "mlp, cnn, resnet, wrn, or path/to/file.py:function",
        choices=tuple(MODELS),
        user_function=True,
    )
    options: dict[str, Any] = key({}, "the model's own options, or keyword arguments of the user's function")
    layers: int | None = key(
        None, "K: cut into so many layers of equal counted cost; unset: one a unit", minimum=1
    )
    cuts: list[int] | None = key(
        None, "units after which to cut: [3] on six units gives 1-3 and 4-6", minimum=1
    )

    def __post_init__(self) -> None:
        if self.cuts is not None and sorted(set(self.cuts)) != self.cuts:
            raise ConfigError(f"network.cuts: {self.cuts} must ascend without repeats")
        if self.cuts is not None and self.layers is not None and len(self.cuts) + 1 != self.layers:
            raise ConfigError(
                f"network.layers: {self.layers} contradicts network.cuts = {self.cuts}, which makes "
                f"{len(self.cuts) + 1} layers; give one of the two"
            )
        if is_user_function(self.model):
            return
        units = self.model_options().units
        if self.layers is not None and self.layers > units:
            raise ConfigError(
                f"network.layers: {self.layers} layers cannot be cut from the {units} units of this "
                f"{self.model}; at most {units}"
            )
        if self.cuts and self.cuts[-1] >= units:
            raise ConfigError(f"network.cuts: {self.cuts} goes past the {units} units of this {self.model}")

    def model_options(self) -> ModelOptions:
        """The checked options of a built-in model."""
        return settings.read(MODELS[self.model], self.options, "network.options.")


# Of `full`: messages that wait are older than what a layer could learn on instead.
SLOTS = 4
# Which keys of [decoupling] have a meaning for an unlock.
_MEANT = {
    "none": set(),
    "update": {
        "gradient", "gradient_options", "in_flight", "step_probability", "synthesizer_every", "mix_true",
        "fallback_cosine",
    },
    "delayed": {"in_flight", "shrink"},
    "local": {"gradient_options", "in_flight"},
    "full": {
        "gradient", "gradient_options", "input", "input_options", "in_flight", "step_probability",
        "synthesizer_every",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Decoupling:
    """What a layer no longer waits for, and by what means."""

    unlock: str = key(
        "update",
        "update: no wait for the gradient (M); full: nor for the input (M and I); delayed: true gradients, "
        "late; local: a head and a loss a layer; none: back-propagation across slaves",
        choices=("none", "update", "full", "delayed", "local"),
    )
    gradient: str = key("vfbn", "M, the gradient synthesizer: dni, cdni or vfbn", choices=tuple(GRADIENTS))
    gradient_options: dict[str, Any] = key({}, "M's own options: hidden, ...; with local, the head's")
    input: str = key(
        "mlp",
        "I, the input synthesizer: linear, mlp, conv, or frozen (never trained: the control)",
        choices=tuple(INPUTS),
    )
    input_options: dict[str, Any] = key({}, "I's own options: hidden, ...")
    in_flight: int | None = key(
        None,
        "batches a layer may have out without their delta; unset: 2(K - k) + 1; of full: slots of a mailbox",
        minimum=1,
    )
    shrink: float = key(
        1.0, "of delayed: what a gradient is multiplied by at each boundary (beta)", minimum=0, maximum=1
    )
    step_probability: float = key(
        1.0, "of M: the part of the batches whose synthetic gradient is stepped on", above=0, maximum=1
    )
    synthesizer_every: int = key(1, "n: M learns on every n-th true gradient", minimum=1)
    mix_true: bool = key(
        False, "of update: step on the true gradient where it comes before the next batch, on M's elsewhere"
    )
    fallback_cosine: float | None = key(
        None,
        "of update: a layer whose M's cosine stays under it waits for true gradients; unset: never",
        minimum=-1,
        maximum=0.9,
    )

    def __post_init__(self) -> None:
        self.synthesizer_options()
        self.predictor_options()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            idle = {} if field.name.endswith("_options") else field.default
            if field.name not in {"unlock", *_MEANT[self.unlock]} and value != idle:
                raise ConfigError(
                    f"decoupling.{field.name}: {value} has no meaning with unlock = "
                    f'"{self.unlock}"; leave it out'
                )

    @property
    def synthesizes(self) -> bool:
        """Whether there are M's."""
        return "gradient" in _MEANT[self.unlock]

    @property
    def predicts(self) -> bool:
        """Whether there are I's."""
        return "input" in _MEANT[self.unlock]

    @property
    def slots(self) -> int | None:
        """N where messages may be lost: batch b waits in slot b mod N, the newest. None: none is lost."""
        return (self.in_flight or SLOTS) if self.unlock == "full" else None

    def synthesizer_options(self) -> GradientOptions:
        """The checked options of M, or of the head."""
        return settings.read(GRADIENTS[self.gradient], self.gradient_options, "decoupling.gradient_options.")

    def predictor_options(self) -> InputOptions:
        """The checked options of I."""
        return settings.read(INPUTS[self.input], self.input_options, "decoupling.input_options.")

    def window(self, layer: int, layers: int) -> int:
        """How many batches layer `layer` of `layers` may have out without their delta."""
        if self.unlock == "none":
            return 1
        return self.in_flight or 2 * (layers - layer) + 1


SCHEDULES = ("constant", "cosine", "linear", "steps")
OPTIMIZERS = ("sgd", "adam", "adamw", "adagrad")


@dataclass(frozen=True)
class SynthesizerOptimizer:
    """The optimizer of M (and I)."""

    section: ClassVar[str] = "optimizer.synthesizer"

    name: str = key("adam", "sgd, adam, adamw or adagrad", choices=OPTIMIZERS)
    learning_rate: float = key(1e-3, "its learning rate", above=0)
    momentum: float = key(0.0, "of sgd", minimum=0, maximum=1)
    nesterov: bool = key(False, "of sgd, with momentum")
    weight_decay: float = key(0.0, "its weight decay", minimum=0)
    schedule: str = key(
        "constant",
        "constant; cosine or linear to zero at the run's end; steps: a tenth at 1/2, 3/4 and 11/12 of it",
        choices=SCHEDULES,
    )

    def __post_init__(self) -> None:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ConfigError(
                f'{self.section}.nesterov: needs {self.section}.name = "sgd" and a momentum above 0'
            )


@dataclass(frozen=True)
class Optimizer(SynthesizerOptimizer):
    """The slave's own optimizer of its layer."""

    section: ClassVar[str] = "optimizer"

    synthesizer: SynthesizerOptimizer = dataclasses.field(default_factory=SynthesizerOptimizer)


@dataclass(frozen=True)
class Cluster:
    """How the processes live together."""

    profile: str = key(
        "light",
        "light: a slave knows only the master; basic: neighbours exchange activations and gradients "
        "directly; synchronous: no cluster, every layer in one process in step",
        choices=("light", "basic", "synchronous"),
    )
    synthesis: str = key(
        "slave",
        "slave: M runs in the slaves; master: it runs in the master, which they ask",
        choices=("slave", "master"),
    )
    wire: str = key(
        "float32",
        "float32, bfloat16, float16 or int8: what activations and gradients travel as between layers",
        choices=tuple(BOUNDARY_ITEMSIZES),
    )
    compile: bool | list[bool] = key(
        False, "have slaves compile their layers (torch.compile), which takes a C++ compiler; or one a layer"
    )
    heartbeat_seconds: float = key(1.0, "seconds between two heartbeats of a slave", minimum=0.05)
    misses: int = key(2, "heartbeats that a slave may be silent for until it is failed", minimum=2)
    backup_steps: int = key(
        100, "steps between two backups of a slave's optimizer state to the master; 0: never", minimum=0
    )
    snapshot_seconds: float = key(30.0, "seconds between two snapshots of the master", minimum=0.1)

    def compiled_of(self, layers: int) -> list[bool]:
        """Whether each of K layers is compiled.

        Raises:
            ConfigError: a list of another length than K.
        """
        return one_a_layer("cluster.compile", self.compile, layers, "values")


@dataclass(frozen=True)
class Config:
    """A run's whole configuration."""

    run: Run = dataclasses.field(default_factory=Run)
    data: Data = dataclasses.field(default_factory=Data)
    network: Network = dataclasses.field(default_factory=Network)
    decoupling: Decoupling = dataclasses.field(default_factory=Decoupling)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    downpour: Downpour = dataclasses.field(default_factory=Downpour)
    cluster: Cluster = dataclasses.field(default_factory=Cluster)
    simulation: Simulation = dataclasses.field(default_factory=Simulation)

    def __post_init__(self) -> None:
        if self.downpour.warm_start >= self.run.batches:
            raise ConfigError(
                f"downpour.warm_start: {self.downpour.warm_start} of {self.run.batches} batches leaves none "
                "to the other replicas"
            )
        if self.cluster.synthesis == "master" and not self.decoupling.synthesizes:
            raise ConfigError(
                'cluster.synthesis: "master" has no meaning with decoupling.unlock = '
                f'"{self.decoupling.unlock}", which has no M; leave it out'
            )
        if self.cluster.profile == "synchronous":
            self._check_synchronous()
        if self.cluster.synthesis == "master" and self.cluster.wire != "float32":
            raise ConfigError(
                f'cluster.wire: "{self.cluster.wire}" is for what goes from layer to layer, but with '
                'cluster.synthesis = "master" most goes to the master, as float32; leave one of the two out'
            )
        layers = self.network.layers if self.network.cuts is None else len(self.network.cuts) + 1
        if layers is not None:
            self.downpour.replicas_of(layers)
            self.cluster.compiled_of(layers)

    def _check_synchronous(self) -> None:
        """What is for a cluster's processes must not be given where there is none."""
        cluster = self.cluster
        for given, what, why in (
            (cluster.synthesis == "master", 'cluster.synthesis: "master"', "has no master; leave it out"),
            (cluster.wire != "float32", f'cluster.wire: "{cluster.wire}"', "sends nothing; leave it out"),
            (cluster.compile, "cluster.compile:", "has no slaves; leave it out"),
            (self.downpour != Downpour(), "downpour:", "pushes nothing; leave the section out"),
        ):
            if given:
                raise ConfigError(f'{what} has no meaning with cluster.profile = "synchronous", which {why}')

    @property
    def layers(self) -> int:
        """K of a resolved configuration (one whose cuts are known)."""
        if self.network.cuts is None:
            raise AssertionError("the configuration's cuts are not resolved")
        return len(self.network.cuts) + 1

    @property
    def replicas(self) -> list[int]:
        """R of each layer of a resolved configuration."""
        return self.downpour.replicas_of(self.layers)

    @property
    def compiled(self) -> list[bool]:
        """Whether each layer of a resolved configuration is compiled."""
        return self.cluster.compiled_of(self.layers)

    def with_cuts(self, cuts: list[int]) -> Config:
        """The same run with its cuts resolved."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, cuts=cuts, layers=None))

    def to_toml(self) -> str:
        """The configuration as TOML; keys that are unset are left out."""
        return tomli_w.dumps(_present(dataclasses.asdict(self)))


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _present(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if value is not None
    }
