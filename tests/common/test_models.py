"""common.models: the built-in networks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common import models
from common.errors import ConfigError
from common.options import ACTIVATIONS, MODELS, CnnOptions, MlpOptions


def kinds(unit: nn.Module) -> list[str]:
    return [type(module).__name__ for module in unit.children()]


def test_every_model_of_the_options_can_be_built() -> None:
    assert set(models.BUILDERS) == set(MODELS)
    for name, options in MODELS.items():
        units = models.build(name, options(), (1, 8, 8), 10)
        assert len(units) == options().units
        assert nn.Sequential(*units)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 9), max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from(ACTIVATIONS),
)
def test_an_mlp_takes_any_input_through_its_widths(
    widths: list[int], shape: tuple[int, ...], classes: int, batch_norm: bool, activation: str
) -> None:
    options = MlpOptions(widths, batch_norm, activation)
    units = models.build("mlp", options, shape, classes)
    assert len(units) == options.units
    h = torch.randn(3, *shape)
    for unit, width in zip(units, [*widths, classes], strict=True):
        h = unit(h)
        assert h.shape == (3, width)


def test_an_mlps_norm_and_activation_belong_to_the_unit_of_their_linear() -> None:
    units = models.build("mlp", MlpOptions([7, 6]), (1, 8, 8), 10)
    assert [kinds(unit) for unit in units] == [
        ["Flatten", "Linear", "BatchNorm1d", "ReLU"],
        ["Linear", "BatchNorm1d", "ReLU"],
        ["Linear"],
    ]
    units = models.build("mlp", MlpOptions([7], batch_norm=False, activation="tanh"), (64,), 10)
    assert [kinds(unit) for unit in units] == [["Linear", "Tanh"], ["Linear"]]


def test_a_cnn_pools_maxima_first_and_averages_then() -> None:
    units = models.build("cnn", CnnOptions([4, 5, 6]), (3, 32, 32), 10)
    assert [kinds(unit)[-1] for unit in units] == ["MaxPool2d", "AvgPool2d", "AvgPool2d", "Linear"]
    assert kinds(units[0])[:3] == ["Conv2d", "BatchNorm2d", "ReLU"]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(1, 4), min_size=1, max_size=7))
def test_a_cnn_halves_the_image_rounded_up_or_is_refused(
    height: int, width: int, channels: list[int]
) -> None:
    pools = math.ceil(math.log2(max(height, width)))
    if len(channels) > pools:
        with pytest.raises(ConfigError, match=rf"channels: .* {height}x{width}.* at most {pools}$"):
            models.build("cnn", CnnOptions(channels), (1, height, width), 10)
        return
    h = torch.randn(2, 1, height, width)
    units = models.build("cnn", CnnOptions(channels), (1, height, width), 10)
    for unit, size in zip(units, channels, strict=False):
        height, width = -(-height // 2), -(-width // 2)
        h = unit(h)
        assert h.shape == (2, size, height, width)
    assert units[-1](h).shape == (2, 10)


def test_a_cnns_averages_at_the_border_are_over_pixels_alone() -> None:
    pool = list(models.build("cnn", CnnOptions([2, 2]), (1, 8, 8), 10)[1].children())[-1]
    assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 2, 2))


def test_a_cnn_refuses_data_that_is_no_images() -> None:
    with pytest.raises(ConfigError, match=r'examples are \(64,\); choose "mlp"'):
        models.build("cnn", CnnOptions(), (64,), 10)
