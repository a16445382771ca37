"""Learning rates as pure functions of the batch, torch's optimizers over a flat module."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from common.config.optimizer import SynthesizerOptimizerConfig
from common.config.optimizers import LONGEST_SIDE, SCHEDULES
from common.optim.stepper import AccruingStepper, Stepper, rate
from common.optim.steps import muon
from common.shards.flat import Flat


def _split_by_dimensions(parameters: Iterable[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    found = list(parameters)
    return [
        {"params": [each for each in found if each.ndim >= 2], "weight_decay": decay},
        {"params": [each for each in found if each.ndim < 2], "weight_decay": 0.0},
    ]


OPTIMIZERS: dict[str, tuple[SynthesizerOptimizerConfig, Any]] = {
    "sgd": (SynthesizerOptimizerConfig("sgd", 0.05), lambda p: torch.optim.SGD(p, 0.05, foreach=True)),
    "sgd with momentum, Nesterov and decay": (
        SynthesizerOptimizerConfig("sgd", 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=True),
    ),
    "adam": (
        SynthesizerOptimizerConfig("adam", 0.01, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01, foreach=True),
    ),
    "adamw": (
        SynthesizerOptimizerConfig("adamw", 0.01, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.01, foreach=True),
    ),
    "nadam": (
        SynthesizerOptimizerConfig("nadam", 0.01, weight_decay=0.01),
        lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.01, foreach=True),
    ),
    "adamw on matrices": (
        SynthesizerOptimizerConfig("adamw", 0.01, weight_decay=0.1, decayed="matrices"),
        lambda p: torch.optim.AdamW(_split_by_dimensions(p, 0.1), 0.01, foreach=True),
    ),
    "adagrad": (
        SynthesizerOptimizerConfig("adagrad", 0.01, weight_decay=0.01),
        lambda p: torch.optim.Adagrad(p, 0.01, weight_decay=0.01, foreach=True),
    ),
}
RUNS = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, 2 * n), st.just(n)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 7))


@given(RUNS)
def test_a_constant_rate_is_constant(run: tuple[int, int]) -> None:
    assert rate(SynthesizerOptimizerConfig(learning_rate=0.3), *run) == 0.3


@given(RUNS)
def test_a_linear_rate_falls_evenly_to_zero_and_stays_there(run: tuple[int, int]) -> None:
    batch, batches = run
    expected = 0.3 * max(0.0, 1 - batch / batches)
    assert rate(SynthesizerOptimizerConfig(learning_rate=0.3, schedule="linear"), batch, batches) == expected


@given(RUNS)
def test_a_cosine_rate_falls_along_half_a_wave_to_zero_and_stays_there(run: tuple[int, int]) -> None:
    batch, batches = run
    settings = SynthesizerOptimizerConfig(learning_rate=0.3, schedule="cosine")
    expected = 0.15 * (1 + math.cos(math.pi * min(1.0, batch / batches)))
    assert math.isclose(rate(settings, batch, batches), expected, abs_tol=1e-15)
    assert rate(settings, batch + 1, batches) <= rate(settings, batch, batches)


@given(RUNS)
def test_a_stepped_rate_falls_to_a_tenth_at_each_milestone(run: tuple[int, int]) -> None:
    batch, batches = run
    settings = SynthesizerOptimizerConfig(learning_rate=0.3, schedule="steps")
    passed = (2 * batch >= batches) + (4 * batch >= 3 * batches) + (12 * batch >= 11 * batches)
    assert math.isclose(rate(settings, batch, batches), 0.3 * 0.1**passed)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_starts_at_the_learning_rate(schedule: str) -> None:
    assert rate(SynthesizerOptimizerConfig(learning_rate=0.3, schedule=schedule), 0, 100) == 0.3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stepper_does_what_torchs_optimizer_does_to_the_plain_module(name: str) -> None:
    settings, theirs = OPTIMIZERS[name]
    plain = network()
    flat = Flat(copy.deepcopy(plain))
    stepper, optimizer = Stepper(flat, settings, 50), theirs(plain.parameters())
    generator = torch.Generator().manual_seed(1)
    for batch in range(50):
        x, y = torch.randn(6, 1, 6, 6, generator=generator), torch.arange(6)
        optimizer.zero_grad()
        # The same gradients for both: it is the step that is compared, not how its rounding grows.
        functional.cross_entropy(flat.module(x), y).backward()  # type: ignore[no-untyped-call]
        for ours, parameter in zip(flat.module.parameters(), plain.parameters(), strict=True):
            assert ours.grad is not None
            parameter.grad = ours.grad.clone()
        optimizer.step()
        stepper.step(batch)
        for ours, parameter in zip(flat.module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, parameter, rtol=1e-6, atol=1e-7)
    assert stepper.steps == 50


def test_a_step_takes_the_rate_of_its_batch_wherever_the_slave_began() -> None:
    flat = Flat(nn.Linear(1, 1, bias=False))
    stepper = Stepper(flat, SynthesizerOptimizerConfig("sgd", 1.0, schedule="linear"), 10)
    with torch.no_grad():
        flat.parameters.zero_()
    for batch in (7, 2, 10):
        flat.learned[0].grad = torch.full((1, 1), -1.0)
        stepper.step(batch)
    torch.testing.assert_close(flat.parameters.detach(), torch.tensor([0.3 + 0.8 + 0.0]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_on_a_sum_over_examples_is_one_on_their_mean(name: str) -> None:
    settings, _ = OPTIMIZERS[name]
    flats = [Flat(network()) for _ in range(2)]
    flats[1].load(flats[0].buffer.numpy())
    for flat, examples in zip(flats, (1, 12), strict=True):
        stepper = Stepper(flat, settings, 50)
        for batch in range(3):
            for number, weight in enumerate(flat.learned):
                weight.grad = torch.full_like(weight, examples * (number - 1.5 + batch))
            stepper.step(batch, examples)
    torch.testing.assert_close(flats[0].parameters, flats[1].parameters)


def test_what_accrues_is_the_mean_that_was_stepped_on() -> None:
    flat = Flat(nn.Linear(2, 1, bias=False))
    stepper = AccruingStepper(flat, SynthesizerOptimizerConfig("sgd", 0.5), 10)
    before = flat.parameters.clone()
    for amount in (8.0, 24.0):
        flat.learned[0].grad = torch.full((1, 2), amount)
        stepper.step(0, 4)
    assert stepper.take().tolist() == [8.0, 8.0]
    assert torch.equal(flat.parameters, before - 0.5 * 8.0)
    assert stepper.take().tolist() == [0.0, 0.0]


def test_a_step_leaves_no_gradients_where_backward_adds_to_them() -> None:
    flat = Flat(nn.Linear(3, 2))
    stepper = Stepper(flat, SynthesizerOptimizerConfig(), 10)
    flat.module(torch.ones(1, 3)).sum().backward()
    assert all(weight.grad is not None for weight in flat.learned)
    stepper.step(0)
    assert all(weight.grad is None for weight in flat.learned)


def test_a_module_without_parameters_is_stepped_and_counted() -> None:
    flat = Flat(nn.Flatten())
    stepper = Stepper(flat, SynthesizerOptimizerConfig(), 10)
    stepper.step(0)
    assert stepper.steps == 1


@given(RUNS, st.integers(1, 1000))
def test_a_rate_rises_evenly_to_the_schedules(run: tuple[int, int], warm_up: int) -> None:
    batch, batches = run
    plain = SynthesizerOptimizerConfig(learning_rate=0.3, schedule="cosine")
    warm = SynthesizerOptimizerConfig(learning_rate=0.3, schedule="cosine", warm_up=warm_up)
    share = min(1.0, (batch + 1) / warm_up)
    assert math.isclose(rate(warm, *run), share * rate(plain, batch, batches), abs_tol=1e-15)


@pytest.mark.parametrize(("bound", "factor"), [(0.5, 0.1), (5.0, 1.0), (50.0, 1.0)])
def test_a_mean_gradient_has_the_largest_norm_at_most(bound: float, factor: float) -> None:
    flat = Flat(nn.Linear(2, 2))
    with torch.no_grad():
        flat.parameters.zero_()
    stepper = Stepper(flat, SynthesizerOptimizerConfig("sgd", 1.0, clip_norm=bound), 10)
    # Of the mean over four examples, the weight's gradient has the norm 3 and the bias' 4.
    flat.learned[0].grad = torch.tensor([[12.0, 0.0], [0.0, 0.0]])
    flat.learned[1].grad = torch.tensor([0.0, 16.0])
    stepper.step(0, 4)
    expected = -factor * torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0, 4.0])
    torch.testing.assert_close(flat.parameters.detach(), expected)


def test_gradients_of_several_batches_make_up_a_step_on_the_mean_of_all_examples() -> None:
    flats = [Flat(network()) for _ in range(2)]
    flats[1].load(flats[0].buffer.numpy())
    once = Stepper(flats[0], SynthesizerOptimizerConfig("adam", 0.01), 50)
    thrice = Stepper(flats[1], SynthesizerOptimizerConfig("adam", 0.01, accumulate=3), 50)
    for batch in range(6):
        before = flats[1].parameters.clone()
        for number, weight in enumerate(flats[1].learned):
            weight.grad = torch.full_like(weight, number + batch)
        thrice.step(batch, 4 + batch)
        if batch % 3 < 2:
            assert torch.equal(flats[1].parameters, before)
            # A backward for the layer below alone clears gradients meanwhile.
            flats[1].clear_gradients()
            continue
        first = batch - 2
        for number, weight in enumerate(flats[0].learned):
            weight.grad = torch.full_like(weight, 3 * number + 3 * first + 3)
        once.step(batch, 3 * first + 15)
    assert (once.steps, thrice.steps) == (2, 2)
    torch.testing.assert_close(flats[0].parameters, flats[1].parameters)


def test_an_accumulated_gradient_accrues_once() -> None:
    flat = Flat(nn.Linear(2, 1, bias=False))
    stepper = AccruingStepper(flat, SynthesizerOptimizerConfig("sgd", 0.5, accumulate=2), 10)
    before = flat.parameters.clone()
    for amount in (8.0, 24.0):
        flat.learned[0].grad = torch.full((1, 2), amount)
        stepper.step(0, 4)
    assert stepper.take().tolist() == [4.0, 4.0]
    torch.testing.assert_close(flat.parameters, before - 0.5 * 4.0)


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16)])
def test_muons_change_of_a_matrix_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 1e-3
    values = torch.linalg.svdvals(muon.orthogonalize(matrix))
    strong = torch.linalg.svdvals(matrix / matrix.norm()) > 0.02
    assert values[strong].min() > 0.6
    assert values.max() < 1.3
    # The directions stay.
    assert torch.cosine_similarity(muon.orthogonalize(matrix).flatten(), matrix.flatten(), 0) > 0.7


def test_muon_moves_matrices_alone_and_adamw_all_other_tensors() -> None:
    torch.manual_seed(0)
    plain = nn.ModuleDict({"words": nn.Embedding(5, 4), "linear": nn.Linear(4, 6), "norm": nn.LayerNorm(6)})
    flat = Flat(copy.deepcopy(plain))
    stepper = Stepper(flat, SynthesizerOptimizerConfig("muon", 0.01, weight_decay=0.1), 10)
    matrix = plain.get_parameter("linear.weight")
    others = [each for each in plain.parameters() if each is not matrix]
    optimizers = [torch.optim.AdamW(others, 0.01, weight_decay=0.1)]
    momentum = torch.zeros_like(matrix)
    for batch in range(4):
        for ours, parameter in zip(flat.learned, plain.parameters(), strict=True):
            ours.grad = torch.randn(ours.shape, generator=torch.Generator().manual_seed(batch))
            parameter.grad = ours.grad.clone()
        stepper.step(batch)
        optimizers[0].step()
        with torch.no_grad():
            assert matrix.grad is not None
            momentum.lerp_(matrix.grad, 0.05)
            change = muon.orthogonalize(matrix.grad.lerp(momentum, 0.95))
            matrix.mul_(1 - 0.01 * 0.1).sub_(change, alpha=0.01 * 0.2 * math.sqrt(6))
        for ours, parameter in zip(flat.learned, plain.parameters(), strict=True):
            torch.testing.assert_close(ours, parameter, rtol=1e-5, atol=1e-6)


def soap_of_the_paper(weight: torch.Tensor, gradients: list[torch.Tensor], rate: float) -> torch.Tensor:
    """Follow algorithm 3 of Vyas et al. in float64, step by step, without state of its own making."""
    beta, w = 0.95, weight.double()
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    left = right = torch.zeros(())
    for t, gradient in enumerate((each.double() for each in gradients), start=1):
        if t == 1:
            left, right = 0.05 * gradient @ gradient.T, 0.05 * gradient.T @ gradient
            ql, qr = (torch.linalg.eigh(each).eigenvectors.flip(1) for each in (left, right))
            continue
        first = beta * first + (1 - beta) * gradient
        turned = ql.T @ gradient @ qr
        second = beta * second + (1 - beta) * turned**2
        change = (ql.T @ first @ qr) / (second.sqrt() + 1e-8)
        w = w - rate * math.sqrt(1 - beta**t) / (1 - beta**t) * ql @ change @ qr.T
        left = beta * left + (1 - beta) * gradient @ gradient.T
        right = beta * right + (1 - beta) * gradient.T @ gradient
        if t % 10 == 0:
            order = torch.diag(ql.T @ left @ ql).argsort(descending=True)
            second, ql = second[order], torch.linalg.qr(left @ ql[:, order]).Q
            order = torch.diag(qr.T @ right @ qr).argsort(descending=True)
            second, qr = second[:, order], torch.linalg.qr(right @ qr[:, order]).Q
    return w


def test_soap_steps_as_in_the_paper() -> None:
    # Square: a single gradient decides on the whole of both bases.
    flat = Flat(nn.Linear(5, 5, bias=False))
    generator = torch.Generator().manual_seed(5)
    gradients = [torch.randn(5, 5, generator=generator) for _ in range(25)]
    expected = soap_of_the_paper(flat.learned[0].detach().clone(), gradients, 0.01)
    stepper = Stepper(flat, SynthesizerOptimizerConfig("soap", 0.01), 50)
    for batch, gradient in enumerate(gradients):
        flat.learned[0].grad = 8 * gradient
        stepper.step(batch, 8)
    torch.testing.assert_close(flat.learned[0].detach().double(), expected, rtol=1e-3, atol=1e-4)


def test_soap_goes_on_from_a_backup_and_keeps_no_basis_of_a_long_side() -> None:
    steppers, flats = [], []
    for _ in range(2):
        torch.manual_seed(0)
        flats.append(Flat(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, LONGEST_SIDE + 1, bias=False))))
        steppers.append(Stepper(flats[-1], SynthesizerOptimizerConfig("soap", 0.01), 50))
    shapes = {name: tuple(tensor.shape) for name, tensor in steppers[0].state().items() if name[0] == "s"}
    assert sorted(shapes.values()) == [(3, 3)] * 4 + [(5, 5)] * 2
    for batch in range(24):
        if batch == 12:
            flats[1].load(flats[0].buffer.numpy())
            for own, other in zip(steppers[1].state().values(), steppers[0].state().values(), strict=True):
                own.copy_(other)
        for flat, stepper in zip(flats, steppers, strict=True):
            for number, weight in enumerate(flat.learned):
                generator = torch.Generator().manual_seed(10 * batch + number)
                weight.grad = torch.randn(weight.shape, generator=generator)
            if batch >= 12 or stepper is steppers[0]:
                stepper.step(batch)
            flat.clear_gradients()
    assert torch.equal(flats[0].parameters, flats[1].parameters)
