"""M and I: synthesizers of the gradient and the input that a layer would otherwise wait for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from common.config.decoupling import DecouplingConfig
from common.config.sections import Config
from common.config.synthesizers import VfbnOptions
from common.config.time import TimeConfig
from common.draws import mix, seeded_torch
from common.registry import import_implementation
from common.signals.forms import TensorForm
from common.synthesizers.base import GradientSynthesizer, InputSynthesizer, Virtual
from common.synthesizers.own_virtual import BuildV, OwnVirtual
from common.synthesizers.predictor import Predictor
from common.synthesizers.regression import DeltaRegression, PropagatingRegression
from common.synthesizers.time.auxiliary import Auxiliary
from common.synthesizers.time.module import TimeModule
from common.synthesizers.time.regression import TimeSynthesizer
from common.synthesizers.virtual import VirtualForward
from common.tasks import Task

__all__ = [
    "BuildV",
    "DeltaRegression",
    "GradientSynthesizer",
    "InputSynthesizer",
    "OwnVirtual",
    "Predictor",
    "PropagatingRegression",
    "TimeModule",
    "Virtual",
    "VirtualForward",
    "build",
    "build_input",
    "build_time",
    "draw_seed",
    "initial",
    "initial_input",
    "initial_time",
    "seeded",
]

# Separate streams of draws for the initial M, I and M in time of each layer, and for what a user's v draws in
# training, apart from the network's.
_STREAMS = {"gradient": 0, "input": 1, "time": 2, "v": 3}
_CPU = torch.device("cpu")


def build(
    decoupling: DecouplingConfig, shape: tuple[int, ...], task: Task, v: BuildV | None = None
) -> GradientSynthesizer:
    """Build M of one layer, its parameters drawn from torch's global generator.

    Args:
        decoupling: names M and its options.
        shape: shape of one example's h: (D,) vectors, (C, H, W) feature maps; every other shape is flattened.
        task: of the run.
        v: builds a user's v, where `decoupling` names one.

    Raises:
        ConfigError: the user's v cannot be used.
    """
    options = decoupling.synthesizer_options()
    if decoupling.own_v is not None:
        assert isinstance(options, VfbnOptions)
        assert v is not None
        return OwnVirtual(options, shape, task, v)
    module = import_implementation(f"{__name__}.gradients", decoupling.gradient)
    synthesizer: GradientSynthesizer = module.build(options, shape, task)
    return synthesizer


def build_input(decoupling: DecouplingConfig, inputs: TensorForm, shape: tuple[int, ...]) -> InputSynthesizer:
    """Build I of one layer, its parameters drawn from torch's global generator.

    Args:
        decoupling: names I and its options.
        inputs: form of x: (D,) vectors, (C, H, W) images, (T,) tokens; numbers of other shapes are flattened.
        shape: shape of one example of the predicted h_{k-1}, likewise.

    Raises:
        ConfigError: the examples are not those that I takes.
    """
    module = import_implementation(f"{__name__}.inputs", decoupling.input)
    synthesizer: InputSynthesizer = module.build(decoupling.predictor_options(), inputs, shape)
    return synthesizer


def build_time(time: TimeConfig, size: int) -> TimeModule:
    """Build M in time of one layer with its head, the parameters drawn from torch's global generator.

    Args:
        time: names M in time and its options.
        size: S, the layer's numbers of state of a stream.
    """
    options = time.synthesizer_options()
    synthesizer = TimeSynthesizer(size, options.hidden, time.scale, squash=options.squash)
    return TimeModule(synthesizer, Auxiliary(size) if time.aux else None)


def initial(
    config: Config, k: int, shape: tuple[int, ...], task: Task, v: BuildV | None = None
) -> GradientSynthesizer:
    """Build M_k with the parameters at the beginning of a run, the same in every process; as of `build`."""
    with seeded_torch(mix(config.run.seed, k, _STREAMS["gradient"]), _CPU):
        return build(config.decoupling, shape, task, v)


def initial_input(config: Config, k: int, inputs: TensorForm, shape: tuple[int, ...]) -> InputSynthesizer:
    """Build I_k with the parameters at the beginning of a run, the same in every process.

    Args:
        config: of the run.
        k: the layer.
        inputs: form of x, as of `build_input`.
        shape: of one example of h_{k-1}.

    Raises:
        ConfigError: the examples are not those that I takes.
    """
    with seeded_torch(mix(config.run.seed, k, _STREAMS["input"]), _CPU):
        return build_input(config.decoupling, inputs, shape)


def initial_time(config: Config, k: int, size: int) -> TimeModule:
    """Build M in time of layer k with the parameters at the beginning of a run, the same in every process."""
    with seeded_torch(mix(config.run.seed, k, _STREAMS["time"]), _CPU):
        return build_time(config.time, size)


def draw_seed(config: Config, k: int) -> int:
    """Return the seed of what M_k, or the head of layer k, draws in training."""
    return mix(config.run.seed, k, _STREAMS["v"])


def seeded(
    module: GradientSynthesizer, seed: int, batch: int, device: torch.device
) -> AbstractContextManager[None]:
    """Seed what a user's v draws for a batch, such as the masks of dropout; other modules draw nothing.

    Args:
        module: M or a head.
        seed: of `draw_seed`.
        batch: b.
        device: computes.
    """
    return seeded_torch(mix(seed, batch), device) if isinstance(module, OwnVirtual) else nullcontext()
