"""common.models: the built-in networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from common.config import settings
from common.config.models import ACTIVATIONS, MODELS, CnnOptions, MlpOptions, ResnetOptions, WrnOptions
from common.config.network import NetworkConfig
from common.config.run import RunConfig
from common.config.sections import Config
from common.data.targets import Targets
from common.errors import ConfigError
from common.models import builtin, network
from common.signals.forms import SignalForm


def kinds(unit: nn.Module) -> list[str]:
    return [type(module).__name__ for module in unit.children()]


def test_every_model_of_the_options_can_be_built() -> None:
    for name, row in MODELS.items():
        options, shape = row.options, (8,) if row.takes_tokens else (1, 8, 8)
        with torch.device("meta"):
            units = builtin.build(name, options(), shape, 10)
            assert len(units) == options().units
            x = torch.zeros(2, *shape, dtype=torch.int64 if row.takes_tokens else torch.float32)
            assert nn.Sequential(*units)(x).shape == ((2, 8, 10) if row.takes_tokens else (2, 10))


def test_the_check_of_sizes_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    (built, *_) = builtin.build("mlp", MlpOptions([5]), (4,), 2)
    torch.manual_seed(3)
    assert torch.equal(built[0].weight, nn.Linear(4, 5).weight)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"widths": [1_000_000, 1_000_000]}),
        ("cnn", {"channels": [1_000_000, 1_000_000]}),
        ("wrn", {"width": 1_000_000}),
        ("gpt", {"width": 1_000_000, "heads": 1}),
        ("lstm", {"width": 1_000_000}),
    ],
)
def test_a_network_whose_unit_is_larger_than_a_shard_is_refused_before_memory_is_taken(
    name: str, options: dict[str, Any]
) -> None:
    row = MODELS[name]
    with pytest.raises(ConfigError, match=rf"unit \d+ of {name} would take [\d,]+ bytes, and a shard takes"):
        builtin.build(name, row.options(**options), (16,) if row.takes_tokens else (1, 32, 32), 10)


@hypothesis_settings(max_examples=30)
@given(
    st.lists(st.integers(1, 9), max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from(list(ACTIVATIONS)),
)
def test_an_mlp_takes_any_input_through_its_widths(
    widths: list[int], shape: tuple[int, ...], classes: int, batch_norm: bool, activation: str
) -> None:
    options = MlpOptions(widths, batch_norm, activation)
    units = builtin.build("mlp", options, shape, classes)
    assert len(units) == options.units
    h = torch.randn(3, *shape)
    for unit, width in zip(units, [*widths, classes], strict=True):
        h = unit(h)
        assert h.shape == (3, width)


def test_an_mlps_norm_and_activation_belong_to_the_unit_of_their_linear() -> None:
    units = builtin.build("mlp", MlpOptions([7, 6]), (1, 8, 8), 10)
    assert [kinds(unit) for unit in units] == [
        ["Flatten", "Linear", "BatchNorm1d", "ReLU"],
        ["Linear", "BatchNorm1d", "ReLU"],
        ["Linear"],
    ]
    units = builtin.build("mlp", MlpOptions([7], batch_norm=False, activation="tanh"), (64,), 10)
    assert [kinds(unit) for unit in units] == [["Linear", "Tanh"], ["Linear"]]


def test_a_cnn_pools_maxima_first_and_averages_then() -> None:
    units = builtin.build("cnn", CnnOptions([4, 5, 6]), (3, 32, 32), 10)
    assert [kinds(unit)[-1] for unit in units] == ["MaxPool2d", "AvgPool2d", "AvgPool2d", "Linear"]
    assert kinds(units[0])[:3] == ["Conv2d", "BatchNorm2d", "ReLU"]


@hypothesis_settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(1, 4), min_size=1, max_size=7))
def test_a_cnn_halves_the_image_rounded_up_or_is_refused(
    height: int, width: int, channels: list[int]
) -> None:
    pools = math.ceil(math.log2(max(height, width)))
    if len(channels) > pools:
        with pytest.raises(ConfigError, match=rf"channels: .* {height}x{width}.* at most {pools}$"):
            builtin.build("cnn", CnnOptions(channels), (1, height, width), 10)
        return
    h = torch.randn(2, 1, height, width)
    units = builtin.build("cnn", CnnOptions(channels), (1, height, width), 10)
    for unit, size in zip(units, channels, strict=False):
        height, width = -(-height // 2), -(-width // 2)
        h = unit(h)
        assert h.shape == (2, size, height, width)
    assert units[-1](h).shape == (2, 10)


def test_a_cnns_averages_at_the_border_are_over_pixels_alone() -> None:
    pool = list(builtin.build("cnn", CnnOptions([2, 2]), (1, 8, 8), 10)[1].children())[-1]
    assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("model", ["cnn", "resnet", "wrn"])
def test_convolutions_refuse_data_that_is_no_images(model: str) -> None:
    with pytest.raises(ConfigError, match=rf'network.model: {model} .*examples are \(64,\); choose "mlp"'):
        builtin.build(model, MODELS[model].options(), (64,), 10)


# Of the papers (0.27, 0.85, 1.7 and 36.5 million), to the parameter, for three channels and ten classes.
PARAMETERS = [
    ("resnet", ResnetOptions(20), 269_722),
    ("resnet", ResnetOptions(56), 853_018),
    ("resnet", ResnetOptions(110), 1_727_962),
    ("wrn", WrnOptions(28, 10), 36_479_194),
]


@pytest.mark.parametrize(("model", "options", "expected"), PARAMETERS)
def test_residual_networks_are_as_large_as_the_papers_say(
    model: str, options: ResnetOptions | WrnOptions, expected: int
) -> None:
    with torch.device("meta"):
        units = builtin.build(model, options, (3, 32, 32), 10)
    assert sum(p.numel() for unit in units for p in unit.parameters()) == expected
    counted = nn.Linear | nn.Conv2d if model == "resnet" else nn.Conv2d
    assert sum(isinstance(m, counted) for unit in units for m in unit.modules()) == options.depth


SMALL: dict[str, dict[str, object]] = {
    "mlp": {"widths": [5, 4, 3]},
    "cnn": {"channels": [2, 3]},
    "resnet": {"depth": 8, "width": 2},
    "wrn": {"depth": 10, "width": 1, "dropout": 0.3},
}


@hypothesis_settings(max_examples=20)
@given(st.sampled_from(sorted(SMALL)), st.data(), st.integers(0, 9))
def test_a_network_cut_anywhere_computes_what_it_computes_uncut(
    model: str, data: st.DataObject, seed: int
) -> None:
    made = Config(RunConfig(seed=seed), network=NetworkConfig(model, SMALL[model]))
    blueprint = network.build(made, SignalForm.plain((1, 8, 8)), Targets(10))
    places = st.lists(st.integers(1, len(blueprint.units) - 1), unique=True).map(sorted)
    cuts = data.draw(places)
    whole = nn.Sequential(*blueprint.units).eval()
    x = torch.randn(3, 1, 8, 8)
    h = x
    for k in range(1, len(cuts) + 2):
        h = network.layer(blueprint, cuts, k).eval()(h)
        assert h.shape[1:] == network.boundary(blueprint, cuts, k).only.shape
    assert torch.equal(h, whole(x))


@hypothesis_settings(max_examples=10)
@given(st.sampled_from(["resnet", "wrn"]), st.tuples(*[st.integers(1, 9)] * 3))
def test_residual_stages_halve_the_image_rounded_up(model: str, shape: tuple[int, int, int]) -> None:
    options = settings.read(MODELS[model].options, SMALL[model])
    h = torch.randn(2, *shape)
    shapes = [tuple((h := unit(h)).shape[2:]) for unit in builtin.build(model, options, shape, 10)[:-1]]
    _, height, width = shape
    halves = [(height, width), (-(-height // 2), -(-width // 2)), (-(-height // 4), -(-width // 4))]
    assert shapes == [halves[0], *halves]


def test_a_residual_block_of_zero_weights_passes_its_input_on() -> None:
    block = builtin.build("resnet", ResnetOptions(8, 2), (3, 8, 8), 10)[2]
    norm = list(block.modules())[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    x = torch.rand(2, 2, 8, 8)
    h = block(x)
    assert torch.equal(h[:, 1:3], x[:, :, ::2, ::2])
    assert not h[:, [0, 3]].any()


def test_convolutions_of_residual_networks_are_drawn_as_the_papers_say() -> None:
    torch.manual_seed(0)
    block = builtin.build("resnet", ResnetOptions(8, 32), (3, 8, 8), 10)[2]
    first = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
    assert first.bias is None
    assert float(first.weight.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("resnet", {"depth": 21}, "depth: 21 is not 6n . 2, .*; the nearest is 20"),
        ("resnet", {"depth": 2}, "depth: 2 is not 6n . 2, .*; the nearest is 8"),
        ("wrn", {"depth": 20}, "depth: 20 is not 6n . 4, .*; the nearest is 22"),
        ("wrn", {"dropout": 1.0}, "dropout: 1.0 is too large"),
        ("resnet", {"width": 0}, "width: 0 is too small"),
        ("resnet", {"widths": [3]}, "widths: unknown key"),
    ],
)
def test_options_that_no_residual_network_has_are_refused(
    model: str, options: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=f"^network.options.{told}"):
        NetworkConfig(model, options)
