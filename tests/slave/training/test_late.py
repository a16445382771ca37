"""slave.training.backwards and slave.training.corrections: late gradients by hand."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.config.decoupling import DecouplingConfig
from common.config.late import BACKWARDS, CORRECTIONS
from common.config.network import NetworkConfig
from common.config.optimizer import OptimizerConfig
from common.config.run import RunConfig
from common.config.sections import Config
from common.config.task import TaskConfig
from common.data.targets import Targets
from common.errors import ConfigError
from common.models.network import build
from common.optim.stepper import Adjustment, Stepper
from common.shards.flat import Flat
from common.signals.forms import PLAIN, SignalForm, TensorForm
from common.signals.values import Signal, plain
from common.wire.boundary import Down, Up
from slave.training import backwards, corrections
from slave.training.backwards.stored import Stored
from slave.training.corrections import Correction
from slave.training.layer import Layer
from slave.training.unlocks.delayed import DelayedUnlock, Late
from tests.integration.processes import ROOT
from tests.slave.chain import Chain, configured

RATE = 0.1


def build_layer() -> Layer:
    """Build layer 2: 6 in, 5 out, two matrices."""
    torch.manual_seed(4)
    flat = Flat(nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 5)).train())
    settings = OptimizerConfig(name="sgd", learning_rate=RATE)
    return Layer(2, flat, Stepper(flat, settings, 10), seed=7)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights_of(layer: Layer) -> list[Tensor]:
    return [each.detach().clone() for each in layer.flat.module.parameters()]


def differentiate(
    activations: list[Tensor], products: list[Tensor], x: Tensor, delta: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Go back through x -> tanh(x A' + a) B' + b by hand.

    Args:
        activations: A, a, B, b that the forward had.
        products: A, a, B, b that the backward multiplies by.
        x: input.
        delta: gradient of the output.
    """
    hidden = torch.tanh(x @ activations[0].T + activations[1])
    inner = (delta @ products[2]) * (1 - hidden**2)
    return [inner.T @ x, inner.sum(0), delta.T @ hidden, delta.sum(0)], inner @ products[0]


@pytest.mark.parametrize("name", BACKWARDS)
def test_a_backward_has_the_activations_and_the_weights_that_its_name_says(name: str) -> None:
    layer = build_layer()
    unlock = DelayedUnlock(Late(layer, backwards.build(name, layer)))
    xs = [draw(b, 8, 6) for b in range(3)]
    then = weights_of(layer)
    sent = []
    for b, x in enumerate(xs):
        (up,) = unlock.forward(b, x, torch.zeros(8))
        assert isinstance(up, Up)
        sent.append(plain(up.h))
    for h, x in zip(sent, xs, strict=True):
        torch.testing.assert_close(h, torch.tanh(x @ then[0].T + then[1]) @ then[2].T + then[3])
    for b, x in enumerate(xs):
        now, delta = weights_of(layer), draw(10 + b, 8, 5)
        activations, products = {
            "recompute": (now, now), "stash": (then, then), "stored": (then, now),
        }[name]  # fmt: skip
        steps, down = differentiate(activations, products, x, delta)
        (message,) = unlock.gradient(b, delta)
        assert isinstance(message, Down)
        torch.testing.assert_close(message.delta, down)
        torch.testing.assert_close(
            weights_of(layer), [w - RATE * step / 8 for w, step in zip(now, steps, strict=True)]
        )
    assert not unlock.waiting()


@pytest.mark.parametrize("name", BACKWARDS)
def test_a_lost_batch_and_one_that_was_stepped_on_leave_nothing_behind(name: str) -> None:
    layer = build_layer()
    backward = backwards.build(name, layer)
    late, kept = Late(layer, backward), []
    for b in range(2):
        x = draw(b, 8, 6)
        kept.append(weakref.ref(x))
        sent = late.forward(b, x)
    del x
    list(late.lose(0))
    list(late.step(1, sent, draw(5, 8, 5)))
    gc.collect()
    assert [each() for each in kept] == [None, None]
    assert not late.waiting()


def test_only_weights_are_copied_to_a_stash() -> None:
    layer = build_layer()
    stash = backwards.build("stash", layer)
    weight, x = layer.flat.learned[0], draw(0, 8, 6)
    copied, shared = stash.save(weight), stash.save(x)  # type: ignore[attr-defined]
    assert copied.data_ptr() != weight.data_ptr()
    assert shared.data_ptr() == x.data_ptr()
    assert torch.equal(copied, weight)


@pytest.mark.parametrize(
    ("row", "units", "inputs"),
    [
        ("MLP 784-8x1024-10, B = 256", 4, torch.zeros(256, 784)),
        ("`gpt`, width 256, 8 blocks, context 64, B = 32", 5, torch.zeros(32, 64, dtype=torch.int64)),
    ],
)
def test_a_kept_graph_weighs_what_the_page_says(row: str, units: int, inputs: Tensor) -> None:
    if inputs.is_floating_point():
        network = NetworkConfig(options={"widths": [1024] * 8})
        blueprint = build(Config(network=network), SignalForm.plain((784,)), Targets(10))
    else:
        network = NetworkConfig(model="gpt", options={"width": 256, "heads": 4, "blocks": 8})
        config = Config(network=network, task=TaskConfig(kind="language"))
        form = SignalForm({PLAIN: TensorForm((64,), "int64", vocabulary=256)})
        blueprint = build(config, form, Targets(256, (64,)))
    flat = Flat(nn.Sequential(*blueprint.units[:units]))
    layer = Layer(1, flat, Stepper(flat, OptimizerConfig(name="sgd"), 10))
    weights = range(flat.parameters.data_ptr(), flat.parameters.data_ptr() + flat.parameters.nbytes)
    weighed = [inputs.nbytes]
    for name in ("stored", "stash"):
        backward = backwards.build(name, layer)
        kept: dict[int, Tensor] = {}

        def weigh(tensor: Tensor, save: Callable[[Tensor], Tensor], kept: dict[int, Tensor]) -> Tensor:
            saved = save(tensor)
            if saved.data_ptr() not in weights:
                kept[saved.untyped_storage().data_ptr()] = saved
            return saved

        assert isinstance(backward, Stored)
        with patch.object(backward, "save", partial(weigh, save=backward.save, kept=kept)):
            backward.forward(0, inputs)
        weighed.append(sum(each.untyped_storage().nbytes() for each in kept.values()))
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {row} |")]
    for cell, nbytes in zip(line.split("|")[2:5], weighed, strict=True):
        assert float(cell) == pytest.approx(nbytes / 2**20, rel=0.05)


@pytest.mark.parametrize("name", BACKWARDS)
@pytest.mark.parametrize("options", [{"channels": [4, 4]}, {"widths": [6, 6], "batch_norm": True}])
def test_every_backward_goes_through_a_network_and_moves_statistics_once(
    name: str, options: dict[str, object]
) -> None:
    model = "cnn" if "channels" in options else "mlp"
    config = configured(
        model=model, options=options, unlock="delayed", batches=9, decoupling={"backward": name}
    )
    chain = Chain(config, seed=2).run()
    assert {slave.trainer.steps for slave in chain.slaves} == {9}
    counted = [
        int(buffer)
        for slave in chain.slaves
        for path, buffer in slave.flat.module.named_buffers()
        if path.endswith("num_batches_tracked")
    ]
    assert set(counted) <= {9}


# Corrections.

BATCHES = 100


def correction(name: str, backward: str = "recompute") -> Correction:
    return corrections.build(
        Config(
            run=RunConfig(batches=BATCHES),
            decoupling=DecouplingConfig(unlock="delayed", backward=backward, correction=name),
            optimizer=OptimizerConfig(name=CORRECTIONS[name].optimizer or "sgd"),
        )
    )


proximal = correction("proximal")


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_gradient_in_time_is_not_corrected(name: str) -> None:
    delta, h, flat = draw(0, 4, 3), draw(1, 4, 3), build_layer().flat
    chosen, weights = correction(name), flat.parameters.clone()
    for batch in (0, BATCHES - 1):
        assert torch.equal(plain(chosen.correct(delta, h, h.clone(), 0)), delta)
        rate, beta = chosen.adjust(batch, 0)
        assert rate == 1
        assert beta is None or beta == pytest.approx(0.9)
        with chosen.forward(flat), chosen.backward(flat, 0), chosen.step(flat, 0):
            assert torch.equal(flat.parameters, weights)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, BATCHES - 1))
def test_the_later_a_gradient_the_smaller_the_early_steps_and_the_higher_the_momentum(
    less: int, more: int, batch: int
) -> None:
    less, more = sorted((less, more))
    for name in ("pipemare", "nesterov"):
        first, second = (correction(name).adjust(batch, delay) for delay in (less, more))
        assert 0 < second.rate <= first.rate <= 1
        assert correction(name).adjust(BATCHES // 4, more).rate == 1
        assert correction(name).adjust(0, more).rate == pytest.approx(1 / max(more, 1))
    assert 0.9 <= (first.beta or 0) <= (second.beta or 0) < 1


def test_nesterov_has_the_papers_momenta_at_the_first_and_the_last_of_eight_stages() -> None:
    assert correction("nesterov").adjust(0, 0).beta == pytest.approx(0.9)
    assert correction("nesterov").adjust(0, 7).beta == pytest.approx(0.99)
    for delay in (0, 1, 7):
        assert correction("nesterov", "stash").adjust(0, delay) == Adjustment(beta=0.99)


def test_a_prediction_is_exact_where_the_weights_move_evenly() -> None:
    flat = build_layer().flat
    start, way, chosen = flat.parameters.clone(), draw(0, len(flat.parameters)), correction("predict")
    for steps in range(1, 4):
        with chosen.step(flat, delay=steps):
            flat.parameters.add_(way)
        with chosen.forward(flat):
            torch.testing.assert_close(flat.parameters, start + 2 * steps * way)
        torch.testing.assert_close(flat.parameters, start + steps * way)


@pytest.mark.parametrize("delay", [1, 3])
def test_pipemare_finds_the_weights_of_the_forward_where_the_weights_move_evenly(delay: int) -> None:
    flat, chosen = build_layer().flat, correction("pipemare", "stored")
    start, way = flat.parameters.clone(), draw(0, len(flat.parameters))
    for _ in range(delay):
        with chosen.step(flat, delay):
            flat.parameters.add_(way)
    now = flat.parameters.clone()
    with chosen.backward(flat, delay):
        torch.testing.assert_close(flat.parameters, start)
    assert torch.equal(flat.parameters, now)
    other = correction("pipemare", "recompute")
    with other.step(flat, delay):
        flat.parameters.add_(way)
    now = flat.parameters.clone()
    with other.backward(flat, delay):
        assert torch.equal(flat.parameters, now)


@pytest.mark.parametrize("name", CORRECTIONS)
@pytest.mark.parametrize("backward", BACKWARDS)
def test_every_correction_goes_with_every_backward_that_it_allows(name: str, backward: str) -> None:
    if CORRECTIONS[name].recomputes and not BACKWARDS[backward].recomputes:
        return
    config = configured(
        unlock="delayed", batches=9, decoupling={"backward": backward, "correction": name},
        optimizer=OptimizerConfig(name=CORRECTIONS[name].optimizer or "adamw"),
    )  # fmt: skip
    chain = Chain(config, seed=2).run()
    assert {slave.trainer.steps for slave in chain.slaves} == {9}
    assert all(bool(slave.flat.parameters.isfinite().all()) for slave in chain.slaves)


def test_a_correction_of_other_steps_than_the_optimizers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'^decoupling\.correction: "nesterov" .*"nadam", not of "adam"'):
        Config(
            decoupling=DecouplingConfig(unlock="delayed", correction="nesterov"),
            optimizer=OptimizerConfig(name="adam"),
        )


def test_nadam_takes_the_beta_of_a_step() -> None:
    """A step with a beta is torch's, made with that beta."""
    settings = OptimizerConfig(name="nadam", learning_rate=RATE)
    flat, twin = Flat(nn.Linear(3, 2)), nn.Linear(3, 2)
    twin.load_state_dict(flat.module.state_dict())
    stepper = Stepper(flat, settings, 10)
    other = torch.optim.NAdam(twin.parameters(), lr=RATE, betas=(0.99, 0.999))
    for b in range(5):
        for module in (flat.module, twin):
            module(draw(b, 4, 3)).square().mean().backward()
        stepper.step(b, adjustment=Adjustment(beta=0.99))
        other.step()
        other.zero_grad()
    for mine, theirs in zip(flat.module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(0, 1000), st.integers(1, 30))
def test_a_proximal_correction_has_no_units(of_loss: float, of_h: float, seed: int, delay: int) -> None:
    """Where h is measured in other units, and the loss too, the corrected gradient is the same, in theirs."""
    delta, sent, now = draw(seed, 4, 3), draw(seed + 1, 4, 3), draw(seed + 2, 4, 3)
    expected = plain(proximal.correct(delta, sent, now, delay)) * of_loss / of_h
    found = plain(proximal.correct(delta * of_loss / of_h, sent * of_h, now * of_h, delay))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_a_proximal_correction_is_exact_where_kappa_is_the_curvature(seed: int, curvature: float) -> None:
    """L = curvature |h - c|^2 / 2 has the gradient curvature (h - c): late at `sent`, wanted at `now`."""
    sent, moved, away = draw(seed, 4, 3), draw(seed + 1, 4, 3), draw(seed + 2, 4, 3)
    now = sent + moved * float(0.9 * sent.norm() / moved.norm())
    # kappa = 3 |delta| / |sent| is the curvature where |sent - c| is a third of |sent|.
    center = sent - away * float(sent.norm() / away.norm()) / 3
    found = plain(proximal.correct(curvature * (sent - center), sent, now, 1))
    torch.testing.assert_close(found, curvature * (now - center), rtol=1e-4, atol=1e-4 * curvature)


def test_a_proximal_correction_of_named_tensors_corrects_each_in_its_own_size() -> None:
    deltas = {"a": draw(0, 4, 3), "b": draw(1, 4, 2)}
    sent = {"a": draw(2, 4, 3), "b": draw(3, 4, 2), "mask": torch.ones(4, dtype=torch.bool)}
    now = {"a": draw(4, 4, 3), "b": sent["b"].clone(), "mask": sent["mask"]}
    found = proximal.correct(deltas, sent, now, 2)
    assert isinstance(found, dict)
    assert list(found) == ["a", "b"]
    assert torch.equal(found["a"], plain(proximal.correct(deltas["a"], sent["a"], now["a"], 2)))
    assert torch.equal(found["b"], deltas["b"])


@given(st.floats(0, 2), st.floats(0.01, 100), st.integers(0, 1000))
def test_a_proximal_step_is_shorter_where_h_has_moved_far(change: float, of_h: float, seed: int) -> None:
    """Up to a tenth of h the step is whole; a change twice as large then halves it, whatever h's units."""
    sent, away = draw(seed, 4, 3), draw(seed + 1, 4, 3)
    now = sent + away * float(change * sent.norm() / away.norm())
    proximal.correct(draw(seed + 2, 4, 3), sent * of_h, now * of_h, 1)
    rate, beta = proximal.adjust(0, 1)
    assert rate == pytest.approx(min(1.0, 0.1 / change) if change else 1.0, rel=1e-3)
    assert beta is None


def test_a_proximal_step_goes_by_the_named_tensor_that_has_moved_farthest() -> None:
    still, sent = draw(0, 4, 2), draw(1, 4, 3)
    proximal.correct({"a": still, "b": sent}, {"a": still, "b": sent}, {"a": still, "b": 1.5 * sent}, 1)
    assert proximal.adjust(0, 1).rate == pytest.approx(0.2)


def test_a_proximal_correction_of_an_h_of_zeros_stays_finite_and_small() -> None:
    zeros = torch.zeros(4, 3)
    delta, now = draw(0, 4, 3), draw(1, 4, 3)
    torch.testing.assert_close(
        plain(proximal.correct(delta, zeros, now, 1)), delta + 3 * now * delta.norm() / now.norm()
    )
    assert plain(proximal.correct(zeros, zeros, zeros, 1)).isfinite().all()
    assert plain(proximal.correct(draw(0, 4, 3), zeros, zeros, 1)).isfinite().all()


def test_a_correction_that_needs_h_again_is_refused_where_the_graph_is_kept() -> None:
    for backward in ("stash", "stored"):
        with pytest.raises(ConfigError, match=r'^decoupling\.correction: "proximal" needs .*"recompute"'):
            DecouplingConfig(unlock="delayed", backward=backward, correction="proximal")


def test_the_delay_is_counted_in_steps_of_the_layer() -> None:
    layer, seen = build_layer(), []

    class Recording(Correction):
        def correct(self, delta: Signal, sent: Signal, now: Signal, delay: int) -> Signal:
            seen.append(delay)
            return super().correct(delta, sent, now, delay)

    unlock = DelayedUnlock(Late(layer, correction=Recording()))
    for b in range(3):
        list(unlock.forward(b, draw(b, 8, 6), torch.zeros(8)))
    for b in range(3):
        list(unlock.gradient(b, draw(10 + b, 8, 5)))
    list(unlock.forward(3, draw(3, 8, 6), torch.zeros(8)))
    list(unlock.gradient(3, draw(13, 8, 5)))
    assert seen == [0, 1, 2, 0]
