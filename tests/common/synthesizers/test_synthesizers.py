from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import common.synthesizers
from common.config.decoupling import DecouplingConfig
from common.config.synthesizers import GRADIENTS
from common.synthesizers import GradientSynthesizer, VirtualForward, build
from tests.classifying import classifying

METHODS: list[tuple[str, dict[str, object]]] = [
    ("dni", {"hidden": []}),
    ("dni", {"hidden": [7], "batch_norm": True}),
    ("cdni", {"hidden": []}),
    ("cdni", {"hidden": [7, 5], "batch_norm": True}),
    ("cdni", {"hidden": [7], "batch_norm": False}),
    ("sg+prop", {"hidden": [7], "alpha": 0.5}),
    ("vfbn", {"supervised": 0.0}),
    ("vfbn", {"supervised": 0.0, "hidden": 0}),
    ("vfbn", {"supervised": 0.0, "hidden": 7}),
]
SHAPES = [(6,), (3, 5, 4), (2, 3)]
CLASSES = 4
BATCH = 5

every_method = pytest.mark.parametrize(("gradient", "options"), METHODS)
every_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def made(gradient: str, options: dict[str, object], shape: tuple[int, ...] = (6,)) -> GradientSynthesizer:
    return build(DecouplingConfig(gradient=gradient, gradient_options=options), shape, classifying(CLASSES))


def example(shape: tuple[int, ...], size: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(size, *shape), torch.randint(CLASSES, (size,)), torch.randn(size, *shape)


def stepped(module: GradientSynthesizer, shape: tuple[int, ...], steps: int = 3) -> GradientSynthesizer:
    """A synthesizer past its start: zero layers and fresh statistics hide mistakes."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        module.learn(*example(shape))
        optimizer.step()
    module.zero_grad()
    return module


def plain_v(module: VirtualForward, h: Tensor) -> Tensor:
    """v as torch's own functions make it, for autograd."""
    *hidden, last = module.maps
    if h.dim() == 4:
        h = F.adaptive_avg_pool2d(h, (min(4, h.shape[2]), min(4, h.shape[3])))
    h = h.flatten(1)
    for each in hidden:
        h = F.relu(h @ each.weight + each.bias)
    return h @ last.weight + last.bias


def double_backward(
    module: VirtualForward, h: Tensor, y: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the predicted gradient, the squared error and the task's loss, means over the batch."""
    h = h.detach().requires_grad_()
    total = F.cross_entropy(plain_v(module, h), y, reduction="sum")
    (delta_hat,) = torch.autograd.grad(total, h, create_graph=True)
    return delta_hat, (delta_hat - delta).square().sum() / len(h), total / len(h)


@settings(max_examples=60)
@given(
    shape=st.sampled_from([*SHAPES, (1,), (1, 1, 1), (2, 6, 3), (2, 8, 4)]),
    hidden=st.integers(0, 9),
    supervised=st.sampled_from([0.0, 0.3, 1.0]),
    classes=st.integers(2, 12),
    size=st.integers(1, 6),
    double=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_vfbn_closed_form_equals_double_backward(
    shape: tuple[int, ...],
    hidden: int,
    supervised: float,
    classes: int,
    size: int,
    double: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    decoupling = DecouplingConfig(
        gradient="vfbn", gradient_options={"hidden": hidden, "supervised": supervised}
    )
    module = build(decoupling, shape, classifying(classes)).to(dtype)
    assert isinstance(module, VirtualForward)
    h, delta = torch.randn(2, size, *shape, dtype=dtype)
    y = torch.randint(classes, (size,))
    delta_hat, expected_loss, task_loss = double_backward(module, h, y, delta)
    learned = expected_loss + supervised * task_loss
    expected = torch.autograd.grad(learned, list(module.parameters()), allow_unused=True)
    loss = module.learn(h, y, delta)
    close = partial(torch.testing.assert_close, rtol=1e-9 if double else 1e-4, atol=1e-11 if double else 1e-5)
    close(module.gradient(h, y), delta_hat.detach())
    close(loss, expected_loss.detach())
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        assert parameter.grad is not None
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        close(parameter.grad, gradient)


@every_method
@every_shape
def test_learn_adds_the_gradient_of_the_loss_it_returns(
    gradient: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = stepped(made(gradient, options, shape), shape).double()
    h, y, delta = (each.double() if each.is_floating_point() else each for each in example(shape))
    module.learn(h, y, delta)
    slope = sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None)
    step = 1e-6

    def loss_at(position: float) -> float:
        with torch.no_grad():
            for p in module.parameters():
                assert p.grad is not None
                p.add_(p.grad, alpha=position)
            value = float(_learned(module, h, y, delta))
            for p in module.parameters():
                assert p.grad is not None
                p.sub_(p.grad, alpha=position)
        return value

    assert (loss_at(step) - loss_at(-step)) / (2 * step) == pytest.approx(slope, rel=1e-4)


def _learned(module: GradientSynthesizer, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
    """L_M with every state put back: buffers and `.grad`s."""
    grads = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    loss = module.learn(h, y, delta)
    module.load_state_dict(state)
    for p, grad in zip(module.parameters(), grads, strict=True):
        p.grad = grad
    return loss


@every_method
@every_shape
def test_gradient_is_shaped_as_h_without_graph_and_changes_no_state(
    gradient: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = stepped(made(gradient, options, shape), shape)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    h, y, _ = example(shape)
    h.requires_grad_()
    delta = module.gradient(h, y)
    assert delta.shape == h.shape
    assert delta.dtype == torch.float32
    assert not delta.requires_grad
    assert h.grad is None
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(module.gradient(h, y), delta)


@every_method
@every_shape
def test_each_row_is_its_own_examples_gradient_free_of_the_batch(
    gradient: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = stepped(made(gradient, options, shape), shape)
    h, y, _ = example(shape)
    whole = module.gradient(h, y)
    alone = torch.cat([module.gradient(h[i : i + 1], y[i : i + 1]) for i in range(BATCH)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)


@every_method
@every_shape
def test_learn_accumulates_in_place_into_views_of_one_buffer(
    gradient: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = stepped(made(gradient, options, shape), shape)
    pair = example(shape)
    module.learn(*pair)
    once = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    flat = torch.ones(sum(p.numel() for p in module.parameters()))
    views = torch.split(flat, [p.numel() for p in module.parameters()])
    for p, view in zip(module.parameters(), views, strict=True):
        p.grad = view.view_as(p)
    held = [p.grad for p in module.parameters()]
    assert not module.learn(*pair).requires_grad
    for p, mine, view, expected in zip(module.parameters(), held, views, once, strict=True):
        assert p.grad is mine
        torch.testing.assert_close(view.view_as(p), 1 + expected)


@every_method
@every_shape
def test_learning_one_pair_over_and_over_brings_its_loss_down(
    gradient: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = made(gradient, options, shape)
    h, y, _ = example(shape, 16)
    delta = h * 0.1 + torch.randn(CLASSES, *shape)[y]
    first = module.learn(h, y, delta)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        last = module.learn(h, y, delta)
        optimizer.step()
    assert last < 0.8 * first


@pytest.mark.parametrize("gradient", ["dni", "cdni", "sg+prop"])
@pytest.mark.parametrize("hidden", [[], [7]])
@every_shape
def test_dni_and_cdni_start_at_zero(gradient: str, hidden: list[int], shape: tuple[int, ...]) -> None:
    h, y, _ = example(shape)
    assert not made(gradient, {"hidden": hidden}, shape).gradient(h, y).any()


@every_shape
def test_vfbn_does_not_start_at_zero(shape: tuple[int, ...]) -> None:
    h, y, _ = example(shape)
    assert made("vfbn", {"hidden": 7}, shape).gradient(h, y).flatten(1).any(1).all()


@every_method
@every_shape
def test_only_dni_is_blind_to_the_label(
    gradient: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = stepped(made(gradient, options, shape), shape)
    h, y, _ = example(shape)
    assert torch.equal(module.gradient(h, y), module.gradient(h, (y + 1) % CLASSES)) == (gradient == "dni")


def test_cdni_on_feature_maps_sees_labels_as_one_hot_planes() -> None:
    shape = (3, 6, 4)
    module = stepped(made("cdni", {"hidden": []}, shape), shape)
    weight, bias, label = (
        dict(module.named_parameters())[f"layers.0.{n}"] for n in ("weight", "bias", "label")
    )
    h, y, _ = example(shape)
    planes = F.one_hot(y, CLASSES).float()[:, :, None, None].expand(-1, -1, *shape[1:])
    kernels = label.view(CLASSES, shape[0], 5, 5).transpose(0, 1)
    expected = F.conv2d(torch.cat([h, planes], 1), torch.cat([weight, kernels], 1), bias, padding=2)
    torch.testing.assert_close(module.gradient(h, y), expected.detach(), rtol=1e-4, atol=1e-5)


@every_shape
def test_a_vfbn_that_is_not_trained_returns_its_loss_and_adds_nothing(shape: tuple[int, ...]) -> None:
    fixed = made("vfbn", {"hidden": 7, "trained": False}, shape)
    trained = made("vfbn", {"hidden": 7}, shape)
    trained.load_state_dict(fixed.state_dict())
    pair = example(shape)
    assert torch.equal(fixed.learn(*pair), trained.learn(*pair))
    assert all(p.grad is None for p in fixed.parameters())


@every_method
def test_all_state_is_in_the_state_dict(gradient: str, options: dict[str, object]) -> None:
    first, second = stepped(made(gradient, options), (6,)), made(gradient, options)
    second.load_state_dict(first.state_dict())
    pair = example((6,))
    assert torch.equal(first.gradient(*pair[:2]), second.gradient(*pair[:2]))
    assert torch.equal(first.learn(*pair), second.learn(*pair))
    assert torch.equal(first.gradient(*pair[:2]), second.gradient(*pair[:2]))


@every_method
def test_the_pair_given_to_learn_is_left_as_it_was(gradient: str, options: dict[str, object]) -> None:
    module = made(gradient, options)
    h, y, delta = example((6,))
    kept = h.clone(), y.clone(), delta.clone()
    module.learn(h, y, delta)
    assert all(torch.equal(a, b) for a, b in zip((h, y, delta), kept, strict=True))


@every_method
def test_learn_works_where_gradients_are_switched_off(gradient: str, options: dict[str, object]) -> None:
    module = made(gradient, options)
    with torch.no_grad():
        module.learn(*example((6,)))
    assert any(p.grad is not None and p.grad.any() for p in module.parameters())


@every_method
@every_shape
def test_all_is_computed_on_the_device_that_holds_the_parameters(
    gradient: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    module = made(gradient, options, shape).to("meta")
    h, y, delta = (each.to("meta") for each in example(shape))
    assert module.gradient(h, y).is_meta
    assert module.learn(h, y, delta).is_meta


def test_parameters_are_float32_and_modules_are_registered() -> None:
    for gradient, options in METHODS:
        module = made(gradient, options)
        assert isinstance(module, nn.Module)
        assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_synthesizers_import_nothing_that_does_input_or_output() -> None:
    allowed = {
        "__future__",
        "collections",
        "contextlib",
        "itertools",
        "math",
        "typing",
        "abc",
        "torch",
        "common",
    }
    for path in Path(common.synthesizers.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            assert {name.partition(".")[0] for name in names} <= allowed, path
            assert not any(name.startswith("common.wire") for name in names), path


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_lie_in_memory_as_their_parameters_do_whatever_h_does(gradient: str) -> None:
    """A fused step reads both in the same order."""
    module = stepped(made(gradient, {"hidden": 3 if gradient == "vfbn" else [3]}, (4, 5, 5)), (4, 5, 5))
    h, y, delta = example((4, 5, 5))
    module.learn(h, y, delta)
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    module.learn(h.to(memory_format=torch.channels_last), y, delta.to(memory_format=torch.channels_last))
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name
        torch.testing.assert_close(parameter.grad, expected[name])
