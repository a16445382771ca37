"""common.models.recurrent, lstm and gru: torch's own cells; windows of a stream; gradients of a window."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.config.models import RecurrentOptions
from common.config.network import NetworkConfig
from common.errors import ConfigError
from common.models import builtin
from common.models.recurrent import Window, is_recurrent, state_size, unroll
from common.shards.flat import Flat

V, D = 11, 6
BOTH = pytest.mark.parametrize("model", ["lstm", "gru"])


def build(model: str, depth: int = 2, embedding: int | None = 4) -> nn.Sequential:
    options = RecurrentOptions(width=D, depth=depth, embedding=embedding)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        units = builtin.build(model, options, (7,), V)
    assert len(units) == options.units
    return nn.Sequential(*units).double()


def tokens(steps: int) -> Tensor:
    return torch.randint(V, (3, steps), generator=torch.Generator().manual_seed(steps))


def zeros(network: nn.Sequential) -> Tensor:
    return torch.zeros(3, state_size(network), dtype=torch.float64)


@BOTH
def test_a_network_is_torchs_own_stack_of_cells(model: str) -> None:
    network = build(model)
    kind = nn.LSTM if model == "lstm" else nn.GRU
    plain = kind(4, D, num_layers=2, batch_first=True).double()
    state = network.state_dict()
    renamed = {name: state[f"{int(name[-1]) + 1}.core.{name[:-1]}0"] for name in plain.state_dict()}
    plain.load_state_dict(renamed)
    h, _ = plain(network[0](tokens(5)))
    torch.testing.assert_close(network(tokens(5)), network[-1](h))


@BOTH
def test_without_an_embedding_size_tokens_have_the_width(model: str) -> None:
    assert build(model, 1, None)[0].weight.shape == (V, D)


@BOTH
def test_windows_that_carry_the_state_compute_what_one_long_window_does(model: str) -> None:
    network = build(model)
    x = tokens(7)
    state, outputs = zeros(network), []
    for part in torch.split(x, 3, 1):
        window = unroll(network, part, state)
        outputs.append(window.output)
        state = window.after
    torch.testing.assert_close(torch.cat(outputs, 1), network(x))
    torch.testing.assert_close(state, unroll(network, x, zeros(network)).after)


def test_a_state_has_h_and_c_of_an_lstm_and_h_of_a_gru_for_each_unit() -> None:
    assert state_size(build("lstm")) == 2 * 2 * D
    assert state_size(build("gru")) == 2 * D
    assert state_size([nn.Linear(2, 2)]) == 0


def test_a_unit_of_a_user_is_recurrent_by_its_two_names() -> None:
    class Sum(nn.Module):
        state_size = 2

        def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            sums = state[:, None] + x.cumsum(1)
            return sums, sums[:, -1]

    assert is_recurrent(Sum())
    window = unroll([nn.Identity(), Sum()], torch.ones(1, 3, 2), torch.full((1, 2), 4.0))
    assert window.output[0, :, 0].tolist() == [5, 6, 7]
    assert window.after.tolist() == [[7, 7]]


def test_a_layer_without_state_is_a_window_too() -> None:
    window = unroll([nn.Linear(2, 2)], torch.ones(3, 4, 2), torch.zeros(3, 0))
    assert window.backward([window.output], [torch.ones(3, 4, 2)], None).shape == (3, 0)


@BOTH
def test_the_gradient_at_a_windows_start_is_its_own_and_that_of_its_end_carried_back(model: str) -> None:
    network = build(model)
    start = torch.randn(3, state_size(network), dtype=torch.float64)
    delta = torch.randn_like(start)

    def window() -> Window:
        return unroll(network, tokens(3), start)

    w = window()
    jacobian = w.jacobian()
    assert jacobian.shape == (3, len(start[0]), len(start[0]))
    truncated = w.backward([w.output.square().sum()], [None], None)
    w = window()
    carried = w.backward([w.output.square().sum()], [None], delta)
    torch.testing.assert_close(carried, truncated + torch.einsum("bi,bij->bj", delta, jacobian))
    w = window()
    torch.testing.assert_close(w.backward([w.output], [2 * w.output.detach()], delta), carried)


@BOTH
def test_a_shard_holds_a_recurrent_unit_and_a_step_on_it_changes_the_output(model: str) -> None:
    network = build(model).float()
    before = network(tokens(3)).detach()
    flat = Flat(network)
    assert torch.equal(network(tokens(3)), before)
    network(tokens(3)).sum().backward()
    flat.parameters -= 0.1
    assert not torch.allclose(network(tokens(3)), before)


def test_options_that_no_recurrent_network_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^network.options.depth: 0 is too small"):
        NetworkConfig("lstm", {"depth": 0})
    with pytest.raises(ConfigError, match=r"^network.options.embedding: 0 is too small"):
        NetworkConfig("gru", {"embedding": 0})
