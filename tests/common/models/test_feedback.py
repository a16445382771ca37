"""common.models.feedback: maps whose gradients go down through fixed random weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.draws import mix
from common.errors import ConfigError
from common.models.feedback import check_maps, draw_like, feed_back


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("grouped", [1, 2])
def test_output_and_weight_gradients_are_the_maps_own_and_the_inputs_gradient_is_the_fixed_ones(
    grouped: int,
) -> None:
    torch.manual_seed(0)
    first, last = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=grouped), nn.Linear(54, 5)
    first_twin, last_twin = copy.deepcopy(first), copy.deepcopy(last)
    unit = nn.Sequential(first, nn.Tanh(), nn.Flatten(), last)
    feed_back([unit], 3, 7, "cpu")
    kernel, matrix = draw_like(first.weight, mix(7, 3, 0, 1)), draw_like(last.weight, mix(7, 3, 1, 1))
    x, delta = draw(2, 4, 6, 6), draw(2, 5)
    u = x.clone().requires_grad_()
    output = unit(u)
    middle = first_twin(x)
    assert torch.equal(output, last_twin(middle.tanh().flatten(1)))
    output.backward(delta)
    # By hand: each map's transpose has the fixed weights, the nonlinearity its own slope.
    at_tanh = ((delta @ matrix).view_as(middle) * (1 - middle.tanh().square())).detach()
    leaf = x.clone().requires_grad_()
    way = functional.conv2d(leaf, kernel, stride=2, padding=1, groups=grouped)
    (down,) = torch.autograd.grad(way, leaf, at_tanh)
    torch.testing.assert_close(u.grad, down)
    torch.testing.assert_close(last.weight.grad, delta.T @ middle.detach().tanh().flatten(1))
    (learned,) = torch.autograd.grad(middle, first_twin.weight, at_tanh)
    torch.testing.assert_close(first.weight.grad, learned)


def test_the_fixed_weights_are_a_function_of_seed_unit_and_place_alone() -> None:
    def way(seed: int, first: int, units: int) -> Tensor:
        layers = [nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(units)]
        for layer in layers:
            for parameter in layer.parameters():
                nn.init.ones_(parameter)
        feed_back(layers, first, seed, "cpu")
        x = torch.ones(1, 3, requires_grad=True)
        layers[-1](x).sum().backward()
        assert x.grad is not None
        return x.grad

    assert torch.equal(way(1, 4, 1), way(1, 3, 2))
    assert not torch.equal(way(1, 4, 1), way(1, 3, 1))
    assert not torch.equal(way(1, 4, 1), way(2, 4, 1))


class Rectified(nn.Linear):
    """A linear module that does more than multiply."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input).relu()


def test_a_map_takes_its_input_by_name_too() -> None:
    module = nn.Linear(2, 3)
    feed_back([module], 1, seed=3, device="cpu")
    x = draw(4, 2)
    assert torch.equal(module(input=x), module(x))


@pytest.mark.parametrize(
    "unit",
    [nn.GRU(3, 4), nn.MultiheadAttention(4, 2), nn.ConvTranspose2d(1, 1, 3), Rectified(2, 3)],
    ids=lambda unit: type(unit).__name__,
)
def test_a_unit_with_a_matrix_of_another_kind_is_refused(unit: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r'alignment: "feedback" .* unit 2 \(.*choose .* = "direct"'):
        check_maps([nn.Linear(2, 2), unit], "x.py:build")


def test_units_with_known_matrices_and_with_vectors_are_not_refused() -> None:
    check_maps([nn.Embedding(5, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)), nn.Conv1d(4, 2, 1)], "x")
