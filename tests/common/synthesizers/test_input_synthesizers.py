"""common.synthesizers.inputs: I, every kind of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from common.config import settings
from common.config.decoupling import DecouplingConfig
from common.config.sections import Config
from common.config.synthesizers import INPUTS
from common.errors import ConfigError
from common.shards.flat import Flat
from common.signals.forms import TensorForm
from common.synthesizers import InputSynthesizer, build_input

KINDS: list[tuple[str, dict[str, object]]] = [
    ("linear", {}),
    ("mlp", {"hidden": [7]}),
    ("mlp", {"hidden": [7, 5], "batch_norm": False}),
    ("conv", {"hidden": [6]}),
    ("conv", {"hidden": [4, 3], "batch_norm": False}),
    ("frozen", {"hidden": [7]}),
]
IMAGE = (2, 9, 8)
SHAPES = [(6,), (3, 5, 4), (4, 1, 1), (2, 3)]
BATCH = 5

every_kind = pytest.mark.parametrize(("kind", "options"), KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def made(kind: str, options: dict[str, object], shape: tuple[int, ...] = (6,)) -> InputSynthesizer:
    return build_input(
        DecouplingConfig(unlock="full", input=kind, input_options=options), TensorForm(IMAGE), shape
    )


def example(shape: tuple[int, ...], size: int = BATCH) -> tuple[Tensor, Tensor]:
    return torch.randn(size, *IMAGE), torch.randn(size, *shape).relu()


def stepped(module: InputSynthesizer, shape: tuple[int, ...], steps: int = 3) -> InputSynthesizer:
    """Past its start: fresh statistics hide mistakes."""
    optimizer = torch.optim.Adam([*module.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        module.learn(*example(shape))
        optimizer.step()
    module.zero_grad()
    return module


def state(module: InputSynthesizer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@hypothesis_settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(INPUTS.keys() - {"causal"})),
    image=st.tuples(*[st.integers(1, 12)] * 3),
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple),
)
def test_every_kind_goes_from_any_image_to_any_shape(
    kind: str, image: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    module = build_input(DecouplingConfig(unlock="full", input=kind), TensorForm(image), shape)
    x = torch.randn(BATCH, *image)
    assert module.predict(x).shape == (BATCH, *shape)
    assert module.learn(x, torch.randn(BATCH, *shape)).shape == ()


@pytest.mark.parametrize("kind", sorted(INPUTS.keys() - {"conv", "causal"}))
@every_shape
def test_vectors_do_for_every_kind_without_convolutions(kind: str, shape: tuple[int, ...]) -> None:
    module = build_input(DecouplingConfig(unlock="full", input=kind), TensorForm((11,)), shape)
    assert module.predict(torch.randn(BATCH, 11)).shape == (BATCH, *shape)


def test_convolutions_refuse_vectors() -> None:
    with pytest.raises(ConfigError, match=r'^decoupling.input: conv .*\(11,\); choose "mlp"$'):
        build_input(DecouplingConfig(unlock="full", input="conv"), TensorForm((11,)), (6,))


@every_kind
@every_shape
def test_a_prediction_has_no_graph_and_changes_no_state(
    kind: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = stepped(made(kind, options, shape), shape)
    before = state(module)
    x = example(shape)[0].requires_grad_()
    h = module.predict(x)
    assert (h.shape, h.dtype, h.requires_grad) == ((BATCH, *shape), torch.float32, False)
    assert torch.equal(module.predict(x), h)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


@every_kind
@every_shape
def test_each_row_is_its_own_examples_prediction_free_of_the_batch(
    kind: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = stepped(made(kind, options, shape), shape)
    x, _ = example(shape)
    alone = torch.cat([module.predict(x[i : i + 1]) for i in range(BATCH)])
    torch.testing.assert_close(module.predict(x), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), KINDS[:-1])
@every_shape
def test_learn_adds_the_gradient_of_the_loss_that_it_returns(
    kind: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = stepped(made(kind, options, shape), shape).double()
    x, h = (each.double() for each in example(shape))
    loss = module.learn(x, h)
    slope = sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None)
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    assert slope > 0

    def loss_at(position: float) -> float:
        with torch.no_grad():
            for p, gradient in zip(module.parameters(), gradients, strict=True):
                p.add_(gradient, alpha=position)
        value = float(module.learn(x, h))
        with torch.no_grad():
            for p, gradient in zip(module.parameters(), gradients, strict=True):
                p.sub_(gradient, alpha=position)
        return value

    step = 1e-6 / max(slope, 1.0) ** 0.5
    assert (loss_at(step) - loss_at(-step)) / (2 * step) == pytest.approx(slope, rel=1e-3)
    assert loss_at(0.0) == pytest.approx(float(loss), rel=1e-9)


@pytest.mark.parametrize(("kind", "options"), [("linear", {}), ("mlp", {"batch_norm": False, "hidden": [7]})])
def test_the_loss_is_the_squared_error_summed_over_h_and_averaged_over_the_batch(
    kind: str, options: dict[str, object]
) -> None:
    module = made(kind, options)
    x, h = example((6,))
    expected = (module.predict(x) - h).square().sum(1).mean()
    torch.testing.assert_close(module.learn(x, h), expected)


@pytest.mark.parametrize(("kind", "options"), KINDS[:-1])
def test_learn_adds_to_the_gradients_that_there_are(kind: str, options: dict[str, object]) -> None:
    module = stepped(made(kind, options), (6,))
    flat = Flat(module)
    pair = example((6,))
    with torch.no_grad():
        assert not module.learn(*pair).requires_grad
    once = [gradient.clone() for gradient in flat.gradients()]
    assert sum(gradient.count_nonzero() for gradient in once) > 0
    module.learn(*pair)
    torch.testing.assert_close(flat.gradients(), [2 * gradient for gradient in once])


@pytest.mark.parametrize(("kind", "options"), KINDS[:-1])
@every_shape
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_learning_one_pair_over_and_over_brings_its_loss_down_whatever_its_sign(
    kind: str, options: dict[str, object], shape: tuple[int, ...], sign: float
) -> None:
    module = made(kind, options, shape)
    x, h = example(shape, 16)
    h = h * sign
    first = module.learn(x, h)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        last = module.learn(x, h)
        optimizer.step()
    assert last < 0.8 * first


@every_shape
def test_a_frozen_one_returns_its_loss_and_stays_as_it_was_drawn(shape: tuple[int, ...]) -> None:
    module = made("frozen", {}, shape)
    before = state(module)
    x, h = example(shape)
    torch.testing.assert_close(module.learn(x, h), (module.predict(x) - h).square().sum() / BATCH)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert Flat(module).parameters.numel() == 0
    assert not torch.equal(module.predict(x)[0], module.predict(x)[1])


@every_kind
def test_all_state_is_in_the_state_dict(kind: str, options: dict[str, object]) -> None:
    first, second = stepped(made(kind, options), (6,)), made(kind, options)
    second.load_state_dict(first.state_dict())
    x, h = example((6,))
    assert torch.equal(first.predict(x), second.predict(x))
    assert torch.equal(first.learn(x, h), second.learn(x, h))
    assert torch.equal(first.predict(x), second.predict(x))


@every_kind
@every_shape
def test_all_is_computed_on_the_device_that_holds_the_parameters(
    kind: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = made(kind, options, shape).to("meta")
    x, h = (each.to("meta") for each in example(shape))
    assert module.predict(x).is_meta
    assert module.learn(x, h).is_meta


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("linear", {"hidden": [3]}, "decoupling.input_options.hidden: unknown key"),
        ("mlp", {"hidden": [0]}, "decoupling.input_options.hidden: 0 is too small"),
        ("conv", {"hidden": []}, "decoupling.input_options.hidden: at least one layer"),
        ("conv", {"width": 3}, "decoupling.input_options.width: unknown key"),
    ],
)
def test_options_that_a_kind_does_not_have_are_refused_at_load(
    kind: str, options: dict[str, object], named: str
) -> None:
    values = {"decoupling": {"input": kind, "input_options": options}}
    with pytest.raises(ConfigError, match=f"^{named}"):
        settings.read(Config, values)
