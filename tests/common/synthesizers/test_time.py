"""common.synthesizers.time: M in time against full back-propagation, the auxiliary head, BP(lambda)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.models.recurrent import Gru, Lstm, unroll
from common.synthesizers.time.auxiliary import Auxiliary
from common.synthesizers.time.regression import TimeSynthesizer
from common.synthesizers.time.traces import Traces
from tests.common.synthesizers.linear_core import LinearCore, back_propagate_all, exact, last_of, squared_loss

B = 3


@hypothesis_settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_dni_with_an_exact_m_is_full_back_propagation(seed: int, size: int, steps: int, windows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    core = LinearCore(size, generator).double()
    synthesizer = exact(core, 0.1)
    start = torch.randn(B, size, generator=generator, dtype=torch.float64)
    x = torch.zeros(B, steps, 1, dtype=torch.float64)

    state = start
    for _ in range(windows):
        window = unroll([core], x, state)
        target = window.backward([squared_loss(window)], [None], synthesizer.gradient(window.after))
        # The bootstrapped target at each state is what the exact M says: nothing is left to learn.
        torch.testing.assert_close(synthesizer.gradient(window.before), target)
        state = window.after
    by_windows = [parameter.grad.clone() for parameter in core.parameters() if parameter.grad is not None]

    # All of the future at once.
    core.zero_grad()
    back_propagate_all(core, x.repeat(1, windows, 1), start)
    for mine, parameter in zip(by_windows, core.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


def test_truncated_back_propagation_is_something_else() -> None:
    core = LinearCore(3, torch.Generator().manual_seed(0)).double()
    window = unroll([core], torch.zeros(B, 1, 1), torch.ones(B, 3, dtype=torch.float64))
    truncated = window.backward([squared_loss(window)], [None], None)
    assert not torch.allclose(truncated, exact(core, 1.0).gradient(window.before), rtol=0.01)


@pytest.mark.parametrize("hidden", [[], [8]])
def test_a_new_m_says_nothing_and_learns_the_gradient(hidden: list[int]) -> None:
    torch.manual_seed(0)
    synthesizer = TimeSynthesizer(4, hidden, 0.1)
    state = torch.randn(64, 4)
    assert not synthesizer.gradient(state).any()
    target = (0.3 * state.tanh() + 0.2) * (1 - state.tanh().square())
    optimizer = torch.optim.Adam(synthesizer.parameters(), 0.03)
    losses = []
    for _ in range(300):
        losses.append(float(synthesizer.learn(state, target)))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == pytest.approx(float(target.square().sum() / 64))
    assert losses[-1] < 0.02 * losses[0]


def test_a_cell_that_has_grown_large_gets_no_gradient() -> None:
    synthesizer = TimeSynthesizer(2, [], 1.0)
    nn.init.ones_(last_of(synthesizer).bias)
    small, large = synthesizer.gradient(torch.tensor([[0.0, 0.5], [20.0, -20.0]]))
    torch.testing.assert_close(small, torch.tensor([1.0, 1 - math.tanh(0.5) ** 2]))
    assert large.tolist() == [0, 0]


def test_ms_loss_is_the_mean_over_the_streams_and_gradients_add_up() -> None:
    synthesizer = TimeSynthesizer(2, [], 0.5, squash=False)
    state, delta = torch.ones(3, 2), torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    assert float(synthesizer.learn(state, delta)) == pytest.approx((1 + 4) / 3)
    bias = last_of(synthesizer).bias
    # d/d bias of |scale bias - delta|^2 / 3.
    torch.testing.assert_close(bias.grad, -2 * 0.5 * torch.tensor([1.0, 2.0]) / 3)
    synthesizer.learn(state, delta)
    torch.testing.assert_close(bias.grad, -4 * 0.5 * torch.tensor([1.0, 2.0]) / 3)


def test_the_auxiliary_head_teaches_itself_and_the_core_but_not_m() -> None:
    synthesizer, head = TimeSynthesizer(4, [], 0.1), Auxiliary(4)
    nn.init.ones_(last_of(synthesizer).bias)
    assert float(head.total(torch.randn(B, 4), torch.ones(B, 4)).detach()) == 4 * B
    nn.init.ones_(head.network.weight)
    window = unroll([Gru(2, 4)], torch.randn(B, 3, 2), torch.zeros(B, 4))
    delta = synthesizer.gradient(window.after)
    total = head.total(window.before, delta)
    assert total.ndim == 0
    assert window.backward([total + window.output.sum()], [None], delta).any()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert all(parameter.grad is None for parameter in synthesizer.parameters())


# --- BP(lambda) -------------------------------------------------------------------------------------------


def windows_of_an_lstm(
    seed: int, synthesizer: TimeSynthesizer, count: int
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return (state, bootstrapped target, Jacobian, own gradient) of consecutive windows."""
    generator = torch.Generator().manual_seed(seed)
    core = Lstm(2, 2).double()
    for parameter in core.parameters():
        nn.init.normal_(parameter, generator=generator)
    state = torch.randn(B, 4, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(count):
        x = torch.randn(B, 2, 2, generator=generator, dtype=torch.float64)
        window = unroll([core], x, state)
        own = window.backward([window.output.square().sum()], [None], None)
        window = unroll([core], x, state)
        jacobian = window.jacobian()
        target = window.backward([window.output.square().sum()], [None], synthesizer.gradient(window.after))
        found.append((state, target, jacobian, own))
        state = window.after.detach()
    return found


def random_synthesizer(seed: int, hidden: list[int]) -> TimeSynthesizer:
    synthesizer = TimeSynthesizer(4, hidden, 0.5).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in synthesizer.parameters():
        nn.init.normal_(parameter, generator=generator)
    return synthesizer


def gradients(synthesizer: TimeSynthesizer) -> list[Tensor]:
    found = [parameter.grad.clone() for parameter in synthesizer.parameters() if parameter.grad is not None]
    synthesizer.zero_grad()
    return found


@hypothesis_settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([[], [3]]), st.floats(0, 1), st.integers(1, 4))
def test_traces_add_up_to_the_regression_on_the_targets_of_lambda(
    seed: int, hidden: list[int], decay: float, count: int
) -> None:
    synthesizer = random_synthesizer(seed, hidden)
    windows = windows_of_an_lstm(seed, synthesizer, count)
    traces = Traces(synthesizer, decay)
    for state, target, jacobian, _ in windows:
        traces.learn(state, target, jacobian)
    by_traces = gradients(synthesizer)

    # G_b = M(s_b) + sum over k of decay^k d_{b+k} J_{b+k-1} ... J_b, one target after the other.
    errors = [target - synthesizer.gradient(state) for state, target, _, _ in windows]
    for b, (state, _, _, _) in enumerate(windows):
        correction, product = torch.zeros_like(state), torch.eye(4, dtype=torch.float64).expand(B, 4, 4)
        for k in range(b, count):
            correction += decay ** (k - b) * torch.einsum("bi,bij->bj", errors[k], product)
            product = windows[k][2] @ product
        synthesizer.learn(state, synthesizer.gradient(state) + correction)
    for mine, direct in zip(by_traces, gradients(synthesizer), strict=True):
        torch.testing.assert_close(mine, direct)


def test_without_decay_traces_are_the_plain_regression() -> None:
    synthesizer = random_synthesizer(1, [3])
    traces = Traces(synthesizer, 0.0)
    for state, target, jacobian, _ in windows_of_an_lstm(1, synthesizer, 3):
        loss = traces.learn(state, target, jacobian)
        mine = gradients(synthesizer)
        torch.testing.assert_close(synthesizer.learn(state, target), loss)
        for one, other in zip(mine, gradients(synthesizer), strict=True):
            torch.testing.assert_close(one, other)


def test_with_a_decay_of_one_m_learns_true_gradients_and_its_last_prediction_alone() -> None:
    """The gradients of full back-propagation over the windows, whatever M says in between."""
    synthesizer = random_synthesizer(2, [])
    windows = windows_of_an_lstm(2, synthesizer, 3)
    traces = Traces(synthesizer, 1.0)
    for state, target, jacobian, _ in windows:
        traces.learn(state, target, jacobian)
    by_traces = gradients(synthesizer)
    *_, (_, target, _, _) = windows
    truth = target
    for b in reversed(range(3)):
        state, _, _, _ = windows[b]
        synthesizer.learn(state, truth)
        if b:
            _, _, jacobian, own = windows[b - 1]
            truth = own + torch.einsum("bi,bij->bj", truth, jacobian)
    for one, other in zip(by_traces, gradients(synthesizer), strict=True):
        torch.testing.assert_close(one, other)
