"""common.models.costs: counted cost and balanced cuts."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common import synthesizers
from common.config.decoupling import DecouplingConfig
from common.config.optimizer import OptimizerConfig, SynthesizerOptimizerConfig
from common.config.optimizers import OPTIMIZERS
from common.config.run import RunConfig
from common.config.sections import Config
from common.config.time import TimeConfig
from common.models import costs
from common.models.costs import NUMBER
from common.signals.forms import SignalForm, TensorForm
from tests.classifying import classifying

B = 32
STEP = {name: row.price for name, row in OPTIMIZERS.items()}


def cost(*units: nn.Module, shape: tuple[int, ...], optimizer: str = "sgd") -> list[float]:
    forms, h = [], torch.zeros(2, *shape)
    for unit in units:
        h = unit(h)
        forms.append(SignalForm.plain(tuple(h.shape[1:])))
    return costs.unit_costs(units, forms, SignalForm.plain(shape), classifying(10), B, optimizer)


def linear(size: int, width: int, products: int, optimizer: str = "sgd") -> float:
    """Products of (B, size) by (size, width), the sum that is the bias's gradient, the step."""
    return products * B * size * width + NUMBER * width + STEP[optimizer] * (size + 1) * width


def test_a_linear_costs_three_products_and_the_networks_first_two() -> None:
    units = nn.Linear(20, 30), nn.Linear(30, 40)
    assert cost(*units, shape=(20,)) == [linear(20, 30, 2), linear(30, 40, 3)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_has_its_price_a_parameter(optimizer: str) -> None:
    assert cost(nn.Linear(20, 30), shape=(20,), optimizer=optimizer) == [linear(20, 30, 2, optimizer)]


def test_a_convolution_costs_its_kernel_at_every_position() -> None:
    unit = nn.Conv2d(3, 8, 5, padding=2, bias=False)
    products = 3 * 8 * 25 * 12 * 12 * B
    first, second = cost(nn.Conv2d(3, 3, 1), unit, shape=(3, 12, 12))
    assert second == 3 * products + STEP["sgd"] * 3 * 8 * 25
    assert cost(unit, shape=(3, 12, 12)) == [2 * products + STEP["sgd"] * 3 * 8 * 25]
    assert first < second


def test_grouped_convolutions_cost_a_groups_share() -> None:
    whole = cost(nn.Conv2d(8, 8, 3, bias=False), shape=(8, 9, 9))[0] - STEP["sgd"] * 8 * 8 * 9
    groups = cost(nn.Conv2d(8, 8, 3, bias=False, groups=4), shape=(8, 9, 9))[0] - STEP["sgd"] * 8 * 2 * 9
    assert groups == whole / 4


def test_elementwise_modules_cost_each_number_and_flatten_is_free() -> None:
    first = nn.Linear(10, 10)
    _, relu, flatten = cost(first, nn.ReLU(), nn.Flatten(), shape=(10,))
    assert relu == 2 * NUMBER * B * 10
    assert flatten == 0


def test_units_before_the_first_parameter_need_no_backward() -> None:
    flatten, first = cost(nn.ReLU(), nn.Linear(20, 30), shape=(20,))
    assert flatten == NUMBER * B * 20
    assert first == linear(20, 30, 2)


def test_every_kind_of_module_is_counted_and_none_is_changed() -> None:
    units = (
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.AvgPool2d(2),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6)),
        nn.BatchNorm1d(6),
    )
    before = {name: value.clone() for name, value in nn.Sequential(*units).state_dict().items()}
    generator = torch.get_rng_state()
    shapes = [(4, 6, 6)] * 3 + [(4, 3, 3)] * 2 + [(4, 1, 1), (6,), (6,)]
    forms = [SignalForm.plain(shape) for shape in shapes]
    counted = costs.unit_costs(units, forms, SignalForm.plain((1, 8, 8)), classifying(10), B, "adam")
    assert all(one > 0 for one in counted)
    assert torch.equal(torch.get_rng_state(), generator)
    after = nn.Sequential(*units).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for unit in units for p in unit.parameters())


class Peeking(nn.Module):
    """Looks at its numbers, which cannot be done without data."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(20, 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.sum()) > 1e9:
            return x
        y: torch.Tensor = self.linear(x)
        return y


def test_a_forward_that_looks_at_its_numbers_is_counted_too() -> None:
    (counted,) = cost(Peeking(), shape=(20,))
    assert counted >= linear(20, 30, 2)


def synthesizer_cost(
    decoupling: DecouplingConfig, shape: tuple[int, ...], classes: int = 10, accumulate: int = 1
) -> float:
    optimizer = OptimizerConfig(synthesizer=SynthesizerOptimizerConfig("adam", accumulate=accumulate))
    config = Config(run=RunConfig(batch_size=B), decoupling=decoupling, optimizer=optimizer)
    return costs.synthesizer_cost(config, shape, classifying(classes))


@pytest.mark.parametrize("gradient", ["dni", "cdni", "vfbn"])
@pytest.mark.parametrize("shape", [(64,), (6, 5, 5)])
def test_every_synthesizer_costs_more_the_larger_the_boundary(gradient: str, shape: tuple[int, ...]) -> None:
    decoupling = DecouplingConfig(gradient=gradient)
    small = synthesizer_cost(decoupling, shape)
    large = synthesizer_cost(decoupling, (2 * shape[0], *shape[1:]))
    assert 0 < small < large


def test_a_linear_dni_costs_its_products_and_its_step() -> None:
    counted = synthesizer_cost(DecouplingConfig(gradient="dni"), (100,))
    products = 3 * B * 100 * 100
    assert (
        products + STEP["adam"] * 101 * 100
        < counted
        < products + STEP["adam"] * 101 * 100 + 10 * NUMBER * B * 100
    )


def test_each_step_of_a_lesson_is_paid_for() -> None:
    once, eight = (synthesizer_cost(DecouplingConfig(synthesizer_steps=n), (100,)) for n in (1, 8))
    parameters = sum(
        p.numel() for p in synthesizers.build(DecouplingConfig(), (100,), classifying(10)).parameters()
    )
    assert eight - once == 7 * STEP["adam"] * parameters
    assert synthesizer_cost(DecouplingConfig(), (100,), accumulate=2) == once


def test_without_unlock_no_synthesizer_is_paid_for() -> None:
    assert synthesizer_cost(DecouplingConfig(unlock="none"), (64,)) == 0


def test_a_linear_m_in_time_costs_its_products_and_its_step() -> None:
    linear = TimeConfig(window=2, gradient="dni", options={"hidden": []})
    counted = costs.time_cost(linear, 100, B, "adam", 7.0)
    # Used, and forward and backward of a lesson.
    products = 3 * B * 100 * 100
    assert products + STEP["adam"] * 101 * 100 < counted
    assert counted < products + STEP["adam"] * 101 * 100 + 30 * NUMBER * B * 100
    assert costs.time_cost(linear, 0, B, "adam", 7.0) == 0
    assert costs.time_cost(TimeConfig(window=2), 100, B, "adam", 7.0) == 0


def test_a_head_costs_its_products_and_traces_a_backward_pass_for_each_number_of_the_state() -> None:
    def cost(gradient: str, layer: float = 7.0, *, aux: bool = False) -> float:
        time = TimeConfig(window=2, gradient=gradient, options={"hidden": []}, aux=aux)
        return costs.time_cost(time, 20, B, "adam", layer)

    assert cost("dni", aux=True) - cost("dni") > 3 * B * 20 * 20 + STEP["adam"] * 21 * 20
    assert cost("lambda") - cost("dni") > B * 20 * 20 * 21 * 20
    assert cost("lambda", 10.0) - cost("lambda", 7.0) == pytest.approx(20 * 2 / 3 * 3)
    assert cost("dni", 10.0) == cost("dni", 7.0)


def full(kind: str) -> DecouplingConfig:
    return DecouplingConfig(unlock="full", input=kind)


def test_a_linear_input_synthesizer_costs_its_products_and_its_step() -> None:
    counted = costs.input_cost(full("linear"), SignalForm.plain((1, 5, 5)), (30,), B, "adam")
    products, parameters = 3 * B * 25 * 30, 26 * 30 + 1
    # A prediction; the same with a graph, and the weights' gradient. The PReLU and the loss are numbers.
    assert products + STEP["adam"] * parameters < counted
    assert counted < products + STEP["adam"] * parameters + 15 * NUMBER * B * 30


def test_a_frozen_input_synthesizer_costs_less_than_the_one_that_learns() -> None:
    frozen, learning = (
        costs.input_cost(full(kind), SignalForm.plain((20,)), (30,), B, "adam") for kind in ("frozen", "mlp")
    )
    assert 0 < frozen < learning / 2


@pytest.mark.parametrize("unlock", ["none", "update"])
def test_where_inputs_are_waited_for_no_input_synthesizer_is_paid_for(unlock: str) -> None:
    assert costs.input_cost(DecouplingConfig(unlock=unlock), SignalForm.plain((20,)), (30,), B, "adam") == 0


def added_products(_: object, a: list[int], b: list[int], **kwargs: object) -> int:
    return 2 * a[0] * a[1] * b[1]


@hypothesis_settings(max_examples=15)
@given(
    st.sampled_from(["dni", "cdni", "vfbn"]),
    st.sampled_from(["linear", "mlp", "conv", "frozen"]),
    st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7)),
    st.integers(0, 5),
)
def test_products_of_synthesizers_on_feature_maps_are_those_that_torch_measures(
    gradient: str, kind: str, shape: tuple[int, int, int], hidden: int
) -> None:
    options = {"hidden": hidden} if gradient == "vfbn" else {"hidden": [hidden] if hidden else []}
    decoupling = DecouplingConfig("full", gradient, options, input=kind)
    image = (2, 9, 8)
    free = {name: dataclasses.replace(row, price=0.0) for name, row in OPTIMIZERS.items()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(costs, "NUMBER", 0.0)
        patched.setattr(costs, "SLOW_NUMBERS", {})
        patched.setattr(costs, "OPTIMIZERS", free)
        counted = synthesizer_cost(decoupling, shape, 3)
        counted += costs.input_cost(decoupling, SignalForm.plain(image), shape, B, "adam")
    synthesizer = synthesizers.build(decoupling, shape, classifying(3))
    predictor = synthesizers.build_input(decoupling, TensorForm(image), shape)
    x, h, y = torch.randn(B, *image), torch.randn(B, *shape), torch.randint(3, (B,))
    # Torch's own table lacks the product that adds in place.
    in_place = {torch.ops.aten.addmm_: added_products}
    with FlopCounterMode(display=False, custom_mapping=in_place) as measured:
        synthesizer.learn(h, y, synthesizer.gradient(h, y))
        predictor.learn(x, predictor.predict(x))
    assert counted == measured.get_total_flops() / 2


PRICES = st.integers(0, 9).map(float)


@given(st.data(), st.lists(PRICES, min_size=1, max_size=8))
def test_balanced_cuts_are_those_that_brute_force_finds(data: st.DataObject, units: list[float]) -> None:
    prices = st.lists(PRICES, min_size=len(units) - 1, max_size=len(units) - 1)
    synthesizers, inputs = data.draw(prices), data.draw(prices)
    sizes = data.draw(st.lists(st.integers(0, 2), min_size=len(units), max_size=len(units)))

    def of_state(start: int, stop: int) -> float:
        return float(sum(sizes[start:stop]) ** 2)

    layers = data.draw(st.integers(1, len(units)))

    def pace(cuts: tuple[int, ...]) -> float:
        spans = itertools.pairwise([0, *cuts, len(units)])
        ends = [*(synthesizers[cut - 1] for cut in cuts), 0.0]
        starts = [0.0, *(inputs[cut - 1] for cut in cuts)]
        return max(
            first + sum(units[start:stop]) + last + of_state(start, stop)
            for (start, stop), first, last in zip(spans, starts, ends, strict=True)
        )

    best = min(itertools.combinations(range(1, len(units)), layers - 1), key=lambda cuts: (pace(cuts), cuts))
    assert costs.balance(units, synthesizers, inputs, layers, of_state) == list(best)
