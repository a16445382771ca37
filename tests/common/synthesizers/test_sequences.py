"""common.synthesizers on sequences: M and heads for each position, and I from tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common import tasks
from common.config.decoupling import DecouplingConfig
from common.config.task import TaskConfig
from common.config.tasks import IGNORED
from common.data.targets import Targets
from common.errors import ConfigError
from common.signals.forms import TensorForm
from common.synthesizers import GradientSynthesizer, InputSynthesizer, VirtualForward, build, build_input
from common.tasks.kinds.language import CLASSES, OWN_CLASSES
from tests.classifying import classifying

B, T, D, V = 3, 4, 6, 5
LANGUAGE = tasks.build(TaskConfig("language"), Targets(V, (T,)))
TOKENS = TensorForm((T,), "int64", V)

METHODS: list[tuple[str, dict[str, object]]] = [
    ("dni", {"hidden": []}),
    ("dni", {"hidden": [7]}),
    ("cdni", {"hidden": []}),
    ("cdni", {"hidden": [7, 5]}),
    ("cdni", {"hidden": [7], "batch_norm": False}),
    ("vfbn", {"hidden": 0, "supervised": 0.0}),
    ("vfbn", {"hidden": 7, "supervised": 0.0}),
]
KINDS: list[tuple[str, dict[str, object]]] = [
    ("linear", {}),
    ("mlp", {"hidden": [7]}),
    ("mlp", {"hidden": [7, 5], "batch_norm": False}),
    ("causal", {"width": 8, "heads": 2}),
    ("frozen", {"hidden": [7]}),
]
every_method = pytest.mark.parametrize(("gradient", "options"), METHODS)
every_kind = pytest.mark.parametrize(("kind", "options"), KINDS)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def made(gradient: str, options: dict[str, object]) -> GradientSynthesizer:
    return build(DecouplingConfig(gradient=gradient, gradient_options=options), (T, D), LANGUAGE)


def made_input(kind: str, options: dict[str, object]) -> InputSynthesizer:
    return build_input(DecouplingConfig("full", input=kind, input_options=options), TOKENS, (T, D))


def example() -> tuple[Tensor, Tensor, Tensor]:
    y = torch.randint(V, (B, T))
    y[0, 1] = IGNORED
    return torch.randn(B, T, D), y, torch.randn(B, T, D)


def stepped(module: GradientSynthesizer) -> GradientSynthesizer:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        module.learn(*example())
        optimizer.step()
    module.zero_grad()
    return module


LARGE = tasks.build(TaskConfig("language"), Targets(50_000, (T,)))


@every_method
def test_a_large_vocabulary_costs_no_more_than_a_thousand_tokens(
    gradient: str, options: dict[str, object]
) -> None:
    decoupling = DecouplingConfig(gradient=gradient, gradient_options=options)
    large, thousand = (
        build(decoupling, (T, D), tasks.build(TaskConfig("language"), Targets(tokens, (T,))))
        for tokens in (50_000, CLASSES)
    )
    large.load_state_dict(thousand.state_dict())
    h, _, delta = example()
    y = torch.tensor([[0, 5, OWN_CLASSES - 1, IGNORED]] * B)
    torch.testing.assert_close(large.learn(h, y, delta), thousand.learn(h, y, delta), rtol=0, atol=0)
    rare = torch.tensor([[49_999, OWN_CLASSES, 40_000, 1]] * B)
    shared = OWN_CLASSES + (rare - OWN_CLASSES) % (CLASSES - OWN_CLASSES)
    shared[:, 3] = 1
    assert torch.equal(large.gradient(h, rare), thousand.gradient(h, shared))
    assert int(shared.max()) < CLASSES


def test_a_head_of_a_large_vocabulary_has_the_loss_of_the_shared_classes() -> None:
    head = build(DecouplingConfig(), (T, D), LARGE)
    assert isinstance(head, VirtualForward)
    h, y = torch.randn(B, T, D), torch.randint(50_000, (B, T))
    delta, loss = head.supervise(h, y)
    leaf = h.clone().requires_grad_()
    shared = torch.where(y < OWN_CLASSES, y, OWN_CLASSES + (y - OWN_CLASSES) % (CLASSES - OWN_CLASSES))
    expected = F.cross_entropy(head.maps[0](leaf.flatten(0, 1)), shared.flatten(), reduction="sum") / T
    expected.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    torch.testing.assert_close(delta, leaf.grad)
    torch.testing.assert_close(loss, expected.detach())


@every_method
def test_a_position_of_a_sequence_is_an_example_of_its_own(gradient: str, options: dict[str, object]) -> None:
    """A permutation of the positions of all sequences permutes the predictions."""
    module = stepped(made(gradient, options))
    h, _, _ = example()
    y = torch.randint(V, (B, T))
    order = torch.randperm(B * T)

    def mixed(x: Tensor) -> Tensor:
        return x.flatten(0, 1)[order].view_as(x)

    torch.testing.assert_close(mixed(module.gradient(h, y)), module.gradient(mixed(h), mixed(y)))


@pytest.mark.parametrize("hidden", [0, 7])
def test_vfbn_of_a_sequence_is_that_of_its_positions_divided_by_their_number(hidden: int) -> None:
    options: dict[str, object] = {"hidden": hidden}
    module = made("vfbn", options)
    alone = build(DecouplingConfig(gradient_options=options), (D,), classifying(V))
    alone.load_state_dict(module.state_dict())
    h, _, _ = example()
    y = torch.randint(V, (B, T))
    rows = alone.gradient(h.flatten(0, 1), y.flatten()).view_as(h) / T
    torch.testing.assert_close(module.gradient(h, y), rows)


def test_v_is_linear_unless_a_hidden_layer_is_asked_for() -> None:
    unset, linear = made("vfbn", {}), made("vfbn", {"hidden": 0})
    assert unset.state_dict().keys() == linear.state_dict().keys()
    assert sum(p.numel() for p in unset.parameters()) == (D + 1) * V


@every_method
def test_a_row_of_a_batch_depends_on_no_other(gradient: str, options: dict[str, object]) -> None:
    module = stepped(made(gradient, options))
    h, y, _ = example()
    alone = torch.cat([module.gradient(h[i : i + 1], y[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(module.gradient(h, y), alone, rtol=1e-4, atol=1e-5)


@every_method
def test_learn_adds_the_gradient_of_the_loss_that_it_returns(
    gradient: str, options: dict[str, object]
) -> None:
    module = stepped(made(gradient, options)).double()
    h, y, delta = example()
    h, delta = h.double(), delta.double()
    loss = module.learn(h, y, delta)
    parameters = [p for p in module.parameters() if p.grad is not None]
    gradients = [p.grad.clone() for p in parameters if p.grad is not None]
    slope = sum(float(gradient.square().sum()) for gradient in gradients)
    assert slope > 0

    def loss_at(position: float) -> float:
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.add_(g, alpha=position)
            value = float(module.learn(h, y, delta))
            for p, g in zip(parameters, gradients, strict=True):
                p.sub_(g, alpha=position)
        return value

    step = 1e-6 / max(slope, 1.0) ** 0.5
    assert (loss_at(step) - loss_at(-step)) / (2 * step) == pytest.approx(slope, rel=1e-3)
    assert loss_at(0.0) == pytest.approx(float(loss), rel=1e-9)


def test_cdni_knows_the_token_that_follows_and_dni_does_not() -> None:
    h, y, _ = example()
    y = y.clamp(min=0)
    other = y.clone()
    other[1, 2] = (y[1, 2] + 1) % V
    cdni, dni = stepped(made("cdni", {"hidden": [7]})), stepped(made("dni", {"hidden": [7]}))
    changed = (cdni.gradient(h, y) != cdni.gradient(h, other)).any(-1)
    assert changed.nonzero().tolist() == [[1, 2]]
    assert torch.equal(dni.gradient(h, y), dni.gradient(h, other))


@pytest.mark.parametrize("hidden", [0, 7])
def test_a_head_learns_the_next_token_of_each_position(hidden: int) -> None:
    module = made("vfbn", {"hidden": hidden})
    assert isinstance(module, VirtualForward)
    h, y, _ = example()
    delta, total = module.supervise(h, y)
    leaf = h.clone().requires_grad_()
    logits = leaf
    for place, affine in enumerate(module.maps):
        logits = logits @ affine.weight + affine.bias
        logits = logits.relu() if place + 1 < len(module.maps) else logits
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none", ignore_index=IGNORED)
    counts = (y != IGNORED).sum(1, keepdim=True)
    expected = (losses.view(B, T) / counts).sum()
    gradients = torch.autograd.grad(expected / B, [leaf, *module.parameters()])
    torch.testing.assert_close(total, expected.detach())
    torch.testing.assert_close(delta, gradients[0] * B)
    for parameter, gradient in zip(module.parameters(), gradients[1:], strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_sequence_that_the_network_has_flattened_still_has_a_synthesizer() -> None:
    h, y, delta = torch.randn(B, T * D), torch.randint(V, (B, T)), torch.randn(B, T * D)
    for gradient in ("dni", "cdni", "vfbn"):
        module = build(DecouplingConfig(gradient=gradient), (T * D,), LANGUAGE)
        module.learn(h, y, delta)
        assert module.gradient(h, y).shape == h.shape


@every_kind
def test_i_predicts_an_activation_for_each_token(kind: str, options: dict[str, object]) -> None:
    module = made_input(kind, options)
    x, h = torch.randint(V, (B, T)), torch.randn(B, T, D)
    first = float(module.learn(x, h))
    assert module.predict(x).shape == (B, T, D)
    if kind == "frozen":
        assert float(module.learn(x, h)) == first
        return
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        last = module.learn(x, h)
        optimizer.step()
    assert last < 0.8 * first


@every_kind
def test_a_prediction_of_i_has_no_graph_sees_no_later_token_and_no_other_row(
    kind: str, options: dict[str, object]
) -> None:
    module = made_input(kind, options)
    for _ in range(3):
        module.learn(torch.randint(V, (B, T)), torch.randn(B, T, D))
    x = torch.randint(V, (B, T))
    later = x.clone()
    later[:, 2:] = (later[:, 2:] + 1) % V
    h = module.predict(x)
    assert not h.requires_grad
    assert torch.equal(module.predict(x), h)
    torch.testing.assert_close(module.predict(later)[:, :2], h[:, :2])
    assert not torch.allclose(module.predict(later)[:, 2], h[:, 2])
    torch.testing.assert_close(module.predict(x[:1]), h[:1], rtol=1e-4, atol=1e-5)


def test_the_causal_i_alone_sees_earlier_tokens() -> None:
    x = torch.randint(V, (B, T))
    earlier = x.clone()
    earlier[:, 0] = (earlier[:, 0] + 1) % V
    for kind, sees in (("linear", False), ("mlp", False), ("causal", True)):
        module = made_input(kind, {})
        assert torch.equal(module.predict(x)[:, 1:], module.predict(earlier)[:, 1:]) is not sees


@pytest.mark.parametrize(
    ("kind", "inputs", "shape", "told"),
    [
        ("causal", TensorForm((8,)), (4, 6), r'causal takes tokens, but .* numbers \(8,\); choose "mlp"'),
        ("conv", TOKENS, (T, D), r"conv takes images"),
        ("mlp", TOKENS, (T * D,), r"4 positions .* begins with \(24,\); move network.cuts"),
        ("causal", TOKENS, (T + 1, D), r"4 positions .* begins with \(5, 6\)"),
        ("mlp", TensorForm((), "int64", 9), (D,), r"of no positions .* begins with \(6,\)"),
        ("causal", TensorForm((T, 2), "int64", 9), (T, D), r"of 4 x 2 positions .* begins with \(4, 6\)"),
    ],
)
def test_examples_that_an_i_does_not_take_are_refused(
    kind: str, inputs: TensorForm, shape: tuple[int, ...], told: str
) -> None:
    with pytest.raises(ConfigError, match=f"^decoupling.input: .*{told}"):
        build_input(DecouplingConfig("full", input=kind), inputs, shape)
