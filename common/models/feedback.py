"""Feedback alignment: fixed random weights by which the maps of a network carry gradients down.

A map is a linear or convolutional module. Its output, and the gradient in its weights, are as they were; the
gradient in its input goes through fixed weights of the same shape (Lillicrap et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.draws import mix
from common.errors import ConfigError
from common.models import user

Map: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Modules with a matrix through which no gradient passes.
_TABLES = (nn.Embedding, nn.EmbeddingBag)


def check_maps(units: Sequence[nn.Module], where: str, first_unit: int = 1) -> None:
    """Check that gradients pass down through no matrix but those of maps.

    Args:
        units: of the network, or of a layer.
        where: name of the network.
        first_unit: number of the first unit in the network.

    Raises:
        ConfigError: another module has a matrix.
    """
    for number, unit in enumerate(units, first_unit):
        for module in unit.modules():
            if _is_map(module) or isinstance(module, _TABLES):
                continue
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1:
                    raise ConfigError(
                        f'decoupling.alignment: "feedback" knows the matrices of linear and convolutional '
                        f"modules, and unit {number} ({user.describe(unit)}) of {where} has {name} of "
                        f'{type(module).__name__}; choose decoupling.alignment = "direct", or write the unit '
                        "with nn.Linear"
                    )


def _is_map(module: nn.Module) -> TypeGuard[Map]:
    """Whether a module is a map, and has the forward of one: a subclass may do more than multiply."""
    return isinstance(module, MAPS) and type(module).forward in {kind.forward for kind in MAPS}


def feed_back(units: Sequence[nn.Module], first_unit: int, seed: int, device: torch.device | str) -> None:
    """Have every map of some units carry gradients down by fixed weights.

    The weights are a function of the seed, the unit's number and the map's place: cuts, processes and
    successors make no difference. They are drawn as torch draws those of a new map.

    Args:
        units: of the layer; changed.
        first_unit: number of the first unit in the network, from 1.
        seed: of the run.
        device: of the layer.
    """
    for number, unit in enumerate(units, first_unit):
        maps = (module for module in unit.modules() if _is_map(module))
        for place, module in enumerate(maps):
            _replace_way_down(module, draw_like(module.weight, mix(seed, number, place, 1)).to(device))


def draw_like(weight: Tensor, seed: int) -> Tensor:
    """Draw fixed weights (out, in, ...), uniform up to 1 / sqrt(n), of n numbers that an output adds up."""
    bound = weight[0].numel() ** -0.5
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)


def _replace_way_down(module: Map, fixed: Tensor) -> None:
    own = module.forward

    # The argument's name is torch's own.
    def forward(input: Tensor) -> Tensor:  # noqa: A002
        output: Tensor = own(input.detach())
        if not (torch.is_grad_enabled() and input.requires_grad):
            return output
        if isinstance(module, nn.Linear):
            way = functional.linear(input, fixed)
        else:
            way = module._conv_forward(input, fixed, None)
        # Adds 0, and the gradient of the fixed map.
        return output + (way - way.detach())

    module.forward = forward  # type: ignore[method-assign]
