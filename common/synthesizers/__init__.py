"""M and I: the gradient and the input that a layer makes up instead of waiting for its neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch

from common.config import sections
from common.config.options import DniOptions, VfbnOptions
from common.draws import drawing, mixed
from common.synthesizers.base import GradientSynthesizer, InputSynthesizer
from common.synthesizers.inputs import Predictor
from common.synthesizers.regression import Regression
from common.synthesizers.virtual import VirtualForward

__all__ = [
    "GradientSynthesizer",
    "InputSynthesizer",
    "Predictor",
    "Regression",
    "VirtualForward",
    "build",
    "build_input",
    "initial",
    "initial_input",
]

# Draws of its own for the start of each layer's M and I, apart from the network's.
_STREAMS = {"gradient": 0, "input": 1}
_CPU = torch.device("cpu")

Builder = Callable[[sections.Decoupling, tuple[int, ...], int], GradientSynthesizer]


def _regression(decoupling: sections.Decoupling, shape: tuple[int, ...], classes: int) -> Regression:
    options = decoupling.synthesizer_options()
    assert isinstance(options, DniOptions)
    return Regression(options, shape, classes if decoupling.gradient == "cdni" else None)


def _virtual(decoupling: sections.Decoupling, shape: tuple[int, ...], classes: int) -> VirtualForward:
    options = decoupling.synthesizer_options()
    assert isinstance(options, VfbnOptions)
    return VirtualForward(options, shape, classes)


BUILDERS: dict[str, Builder] = {"dni": _regression, "cdni": _regression, "vfbn": _virtual}


def build(decoupling: sections.Decoupling, shape: tuple[int, ...], classes: int) -> GradientSynthesizer:
    """M of one layer, its parameters drawn from torch's global generator.

    Args:
        decoupling: which method, with which options.
        shape: of one example's h: (D,) vectors, (C, H, W) feature maps; anything else is taken as a vector.
        classes: how many labels there are.
    """
    return BUILDERS[decoupling.gradient](decoupling, shape, classes)


def build_input(
    decoupling: sections.Decoupling, input_shape: tuple[int, ...], shape: tuple[int, ...]
) -> InputSynthesizer:
    """I of one layer, its parameters drawn from torch's global generator.

    Args:
        decoupling: which kind, with which options.
        input_shape: of one example's x: (D,) vectors, (C, H, W) images; anything else is taken as a vector.
        shape: of one example of the h_{k-1} that it makes up, likewise.

    Raises:
        ConfigError: it is to have convolutions, and the examples are no images.
    """
    return Predictor(decoupling.input, decoupling.predictor_options(), input_shape, shape)


def initial(settings: sections.Config, k: int, shape: tuple[int, ...], classes: int) -> GradientSynthesizer:
    """M_k as a run begins with it, wherever it runs."""
    with drawing(mixed(settings.run.seed, k, _STREAMS["gradient"]), _CPU):
        return build(settings.decoupling, shape, classes)


def initial_input(
    settings: sections.Config, k: int, input_shape: tuple[int, ...], shape: tuple[int, ...]
) -> InputSynthesizer:
    """I_k as a run begins with it, wherever it runs."""
    with drawing(mixed(settings.run.seed, k, _STREAMS["input"]), _CPU):
        return build_input(settings.decoupling, input_shape, shape)
