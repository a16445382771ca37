"""M, the gradient synthesizers: what a layer steps on instead of waiting for the gradient from above."""

from __future__ import annotations

from collections.abc import Callable

import torch

from common import config
from common.options import DniOptions, VfbnOptions
from common.synthesizers.base import GradientSynthesizer
from common.synthesizers.regression import Regression
from common.synthesizers.virtual import VirtualForward

__all__ = ["GradientSynthesizer", "Regression", "VirtualForward", "build", "initial"]

Builder = Callable[[config.Decoupling, tuple[int, ...], int], GradientSynthesizer]


def _regression(decoupling: config.Decoupling, shape: tuple[int, ...], classes: int) -> Regression:
    options = decoupling.synthesizer_options()
    assert isinstance(options, DniOptions)
    return Regression(options, shape, classes if decoupling.gradient == "cdni" else None)


def _virtual(decoupling: config.Decoupling, shape: tuple[int, ...], classes: int) -> VirtualForward:
    options = decoupling.synthesizer_options()
    assert isinstance(options, VfbnOptions)
    return VirtualForward(options, shape, classes)


BUILDERS: dict[str, Builder] = {"dni": _regression, "cdni": _regression, "vfbn": _virtual}


def build(decoupling: config.Decoupling, shape: tuple[int, ...], classes: int) -> GradientSynthesizer:
    """M of one layer, its parameters drawn from torch's global generator.

    Args:
        decoupling: which method, with which options.
        shape: of one example's h: (D,) vectors, (C, H, W) feature maps; anything else is taken as a vector.
        classes: how many labels there are.
    """
    return BUILDERS[decoupling.gradient](decoupling, shape, classes)


def initial(settings: config.Config, k: int, shape: tuple[int, ...], classes: int) -> GradientSynthesizer:
    """M_k as a run begins with it: a stream of its own for each layer's M, apart from the network's."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed((settings.run.seed << 20) + k)
        return build(settings.decoupling, shape, classes)
