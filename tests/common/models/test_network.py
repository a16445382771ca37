"""common.models.network: building, checking and cutting."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.config import files
from common.config.decoupling import DecouplingConfig
from common.config.network import NetworkConfig
from common.config.run import RunConfig
from common.config.sections import Config
from common.data.targets import Targets
from common.errors import ConfigError
from common.models import network
from common.models.network import Blueprint
from common.signals.forms import SignalForm

EXAMPLE = Path(__file__).parents[3] / "examples" / "my_network.py"


def configuration(**keys: object) -> Config:
    return Config(network=NetworkConfig(**keys))  # type: ignore[arg-type]


def mlp(units: int = 6, **keys: object) -> Config:
    return configuration(options={"widths": list(range(8, 7 + units))}, **keys)


def written(folder: Path, body: str, signature: str = "") -> Config:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    text = f"import torch\nfrom torch import nn\n\ndef build({signature}):\n{lines}\n"
    (folder / "net.py").write_text(text)
    return configuration(model=f"{folder / 'net.py'}:build")


def refusal(asked: Config, shape: tuple[int, ...] = (64,)) -> str:
    with pytest.raises(ConfigError) as caught:
        network.build(asked, SignalForm.plain(shape), Targets(10))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shapes_of(blueprint: Blueprint) -> list[tuple[int, ...]]:
    return [form.only.shape for form in blueprint.forms]


def test_a_blueprint_tells_one_examples_shape_after_each_unit() -> None:
    blueprint = network.build(
        configuration(model="cnn", options={"channels": [4, 6]}), SignalForm.plain((1, 8, 8)), Targets(10)
    )
    assert shapes_of(blueprint) == [(4, 4, 4), (6, 2, 2), (10,)]


def test_the_same_seed_builds_the_same_network_and_another_seed_another() -> None:
    def state(seed: int) -> dict[str, torch.Tensor]:
        asked = Config(run=RunConfig(seed=seed))
        return nn.Sequential(
            *network.build(asked, SignalForm.plain((1, 8, 8)), Targets(10)).units
        ).state_dict()

    first, again, other = state(3), state(3), state(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_building_and_resolving_leave_the_callers_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    asked = configuration(model="cnn", layers=2)
    network.cut(asked, network.build(asked, SignalForm.plain((1, 8, 8)), Targets(10)))
    assert torch.equal(torch.get_rng_state(), before)


def test_building_moves_no_statistics_and_leaves_units_in_training_mode() -> None:
    blueprint = network.build(mlp(3), SignalForm.plain((64,)), Targets(10))
    state = nn.Sequential(*blueprint.units).state_dict()
    assert state["0.1.num_batches_tracked"] == 0
    assert all(module.training for unit in blueprint.units for module in unit.modules())


def test_cuts_after_unit_three_of_six_give_units_one_to_three_and_four_to_six() -> None:
    asked = mlp(6, cuts=[3])
    blueprint = network.build(asked, SignalForm.plain((64,)), Targets(10))
    assert network.cut(asked, blueprint).network.cuts == [3]
    assert list(network.layer(blueprint, [3], 1)) == blueprint.units[:3]
    assert list(network.layer(blueprint, [3], 2)) == blueprint.units[3:]
    assert network.boundary(blueprint, [3], 1) == SignalForm.plain((10,))
    assert list(network.layer(blueprint, [], 1)) == blueprint.units


@settings(max_examples=20)
@given(st.sets(st.integers(1, 5)).map(sorted))
def test_layers_chained_are_the_plain_network_and_name_its_state(cuts: list[int]) -> None:
    blueprint = network.build(mlp(6), SignalForm.plain((64,)), Targets(10))
    plain = nn.Sequential(*blueprint.units).eval()
    h = x = torch.randn(4, 64)
    names: list[str] = []
    for k in range(1, len(cuts) + 2):
        module = network.layer(blueprint, cuts, k)
        h = module(h)
        assert h.shape[1:] == network.boundary(blueprint, cuts, k).only.shape
        for name, tensor in module.state_dict().items():
            names.append(network.plain_name(cuts, k, name))
            assert torch.equal(plain.state_dict()[names[-1]], tensor)
    assert names == list(plain.state_dict())
    assert torch.equal(h, plain(x))


def test_without_cuts_or_layers_every_unit_is_a_layer() -> None:
    asked = mlp(4)
    resolved = network.cut(asked, network.build(asked, SignalForm.plain((64,)), Targets(10)))
    assert resolved.network.cuts == [1, 2, 3]
    assert resolved.layers == 4


@pytest.mark.parametrize("layers", [1, 2, 3, 6])
def test_so_many_layers_are_cut_as_are_asked_for(layers: int) -> None:
    asked = mlp(6, layers=layers)
    resolved = network.cut(asked, network.build(asked, SignalForm.plain((64,)), Targets(10)))
    assert resolved.layers == layers
    assert files.parse(resolved.to_toml(), "config.toml") == resolved


@pytest.mark.parametrize(
    ("decoupling", "cuts"),
    [
        (DecouplingConfig(unlock="none"), [3, 6]),
        (DecouplingConfig("update", gradient_options={"hidden": 256}, synthesizer_steps=1), [2, 4]),
    ],
    ids=["none", "update"],
)
def test_layers_are_balanced_and_those_with_a_synthesizer_get_fewer_units(
    decoupling: DecouplingConfig, cuts: list[int]
) -> None:
    network_of_nine = NetworkConfig(options={"widths": [256] * 8}, layers=3)
    asked = Config(network=network_of_nine, decoupling=decoupling)
    blueprint = network.build(asked, SignalForm.plain((256,)), Targets(256))
    assert network.cut(asked, blueprint).network.cuts == cuts


def test_the_example_network_takes_the_digits_and_its_options(tmp_path: Path) -> None:
    asked = configuration(model=f"{EXAMPLE}:build", options={"channels": 3})
    assert shapes_of(network.build(asked, SignalForm.plain((1, 8, 8)), Targets(10))) == [
        (3, 8, 8),
        (3, 8, 8),
        (3, 8, 8),
        (10,),
    ]
    moved = configuration(model="elsewhere/my_network.py:build")
    assert len(network.build(moved, SignalForm.plain((1, 8, 8)), Targets(10), code=EXAMPLE.parent).units) == 4


@pytest.mark.parametrize("returned", ["nn.Sequential({})", "[{}]", "({},)"])
def test_a_users_function_may_return_a_sequential_or_a_list(tmp_path: Path, returned: str) -> None:
    asked = written(tmp_path, "return " + returned.format("nn.Linear(64, 8), nn.Linear(8, 10)"))
    assert shapes_of(network.build(asked, SignalForm.plain((64,)), Targets(10))) == [(8,), (10,)]


def test_a_users_function_gets_what_it_names_and_the_options(tmp_path: Path) -> None:
    asked = written(tmp_path, "return [nn.Linear(width, classes)]", "classes, width=3")
    asked = configuration(model=asked.network.model, options={"width": 64})
    assert shapes_of(network.build(asked, SignalForm.plain((64,)), Targets(10))) == [(10,)]


def test_what_a_users_function_raises_is_told_in_one_line(tmp_path: Path) -> None:
    text = refusal(written(tmp_path, "raise ValueError('no\\nway')"))
    assert "net.py:build: ValueError: no way (line 5)" in text


def test_options_that_a_users_function_does_not_know_are_refused(tmp_path: Path) -> None:
    asked = written(tmp_path, "return [nn.Linear(64, 10)]")
    text = refusal(configuration(model=asked.network.model, options={"widht": 3}))
    assert "widht" in text
    assert "network.options" in text


LINEAR = "nn.Linear(64, 10)"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 3", "returns 3; return an nn.Sequential or a list of modules"),
        (
            f"return {LINEAR}",
            "returns Linear(in_features=64, out_features=10, bias=True); return an nn.Sequential",
        ),
        (f"return [{LINEAR}, 3]", "return an nn.Sequential or a list of modules"),
        ("return []", "returns no unit"),
        (
            "return [nn.Linear(64, 256), nn.ReLU(), nn.Linear(128, 10)]",
            "unit 3 (Linear(in_features=128, out_features=10, bias=True)) cannot take (B, 256): mat1",
        ),
        ("return [nn.Linear(64, 12)]", "the last unit gives (B, 12), but the data has 10 classes"),
        ("return [nn.LSTM(64, 10)]", "gives a tuple for 2 examples"),
        ("return [nn.Flatten(0)]", "gives float32 (128,) for 2 examples"),
        (f"return [{LINEAR}.double()]", "unit 1 (Linear"),
        (
            "a, b = nn.BatchNorm1d(64), nn.BatchNorm1d(64)\nb.running_var = a.running_var\n"
            f"return [nn.Sequential(a, b), {LINEAR}]",
            "unit 1 (Sequential(BatchNorm1d, BatchNorm1d)): 0.running_var and 1.running_var are",
        ),
        (
            "return [nn.ReLU(inplace=True), nn.Linear(64, 10)]",
            "unit 1 (ReLU(inplace=True)) changes its input in place",
        ),
        ("return [nn.AdaptiveAvgPool1d(10)]", "has no parameters to train"),
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_with_the_reason(
    tmp_path: Path, body: str, told: str
) -> None:
    text = refusal(written(tmp_path, body))
    assert text.startswith(f"network.model: {tmp_path / 'net.py'}:build: ")
    assert told in text


def test_parameters_that_are_not_float32_are_refused_by_name(tmp_path: Path) -> None:
    body = "m = nn.Linear(64, 10)\nm.extra = nn.Parameter(torch.zeros(2, dtype=torch.float64))\nreturn [m]"
    assert "parameter extra is float64; parameters must be float32" in refusal(written(tmp_path, body))


TIED = """a, b = nn.Linear(64, 64), nn.Linear(64, 64)
b.weight = a.weight
return [nn.Linear(64, 64), a, nn.ReLU(), b, nn.Linear(64, 10)]"""


@pytest.mark.parametrize("cuts", [[], [1], [4], [1, 4]])
def test_units_of_one_layer_may_tie_weights(tmp_path: Path, cuts: list[int]) -> None:
    asked = configuration(model=written(tmp_path, TIED).network.model, cuts=cuts)
    blueprint = network.build(asked, SignalForm.plain((64,)), Targets(10))
    assert network.cut(asked, blueprint).network.cuts == cuts


@pytest.mark.parametrize("keys", [{"cuts": [2]}, {"cuts": [1, 3]}, {"layers": 5}])
def test_weights_tied_across_layers_are_refused_with_advice(tmp_path: Path, keys: dict[str, object]) -> None:
    asked = configuration(model=written(tmp_path, TIED).network.model, **keys)
    blueprint = network.build(asked, SignalForm.plain((64,)), Targets(10))
    with pytest.raises(ConfigError, match=r"units 2 and 4 .*share weight .*cut below unit 2 or after unit 4"):
        network.cut(asked, blueprint)


def test_a_stateless_module_may_be_used_in_several_units(tmp_path: Path) -> None:
    asked = written(
        tmp_path, "r = nn.ReLU()\nreturn [nn.Linear(64, 8), r, nn.Linear(8, 8), r, nn.Linear(8, 10)]"
    )
    assert len(network.build(asked, SignalForm.plain((64,)), Targets(10)).units) == 5


def test_a_cnn_too_deep_for_its_images_is_refused() -> None:
    text = refusal(configuration(model="cnn", options={"channels": [4] * 5}), (1, 8, 8))
    assert text == (
        "network.options.channels: 5 convolutions are too many for images of 8x8: 3 pools leave one pixel; "
        "give at most 3"
    )


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"layers": 5},
            r"network.layers: 5 layers cannot be cut from the 4 units of .*my_network.py:build; at most 4",
        ),
        (
            {"cuts": [2, 4]},
            r"network.cuts: \[2, 4\] goes past the 4 units of .*; cut after unit 3 at the latest",
        ),
    ],
)
def test_cuts_that_the_units_cannot_give_are_refused(keys: dict[str, object], told: str) -> None:
    asked = configuration(model=f"{EXAMPLE}:build", **keys)
    blueprint = network.build(asked, SignalForm.plain((1, 8, 8)), Targets(10))
    with pytest.raises(ConfigError, match=told):
        network.cut(asked, blueprint)
