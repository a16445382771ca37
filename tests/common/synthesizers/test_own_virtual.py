"""M with a v of the user's own: autograd against the closed form, batch norm, and what is no v."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from common import tasks
from common.config.synthesizers import VfbnOptions
from common.config.task import TaskConfig
from common.data.targets import Targets
from common.errors import ConfigError
from common.shards.flat import Flat
from common.synthesizers import OwnVirtual, VirtualForward
from common.tasks import Task
from tests.classifying import classifying
from tests.common.synthesizers.test_sequences import LANGUAGE, D, T, V

HIDDEN, CLASSES, BATCH = 7, 4, 5
SHAPE = (2, 8, 4)
TASK = classifying(CLASSES)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Means(nn.Module):
    """What the built-in v sees of a feature map."""

    def forward(self, h: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(h, 4).flatten(1)


def plain(size: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)]


def own(module: nn.Module, shape: tuple[int, ...] = (6,), task: Task = TASK, **options: object) -> OwnVirtual:
    return OwnVirtual(VfbnOptions(v="own.py:v", **options), shape, task, lambda *_: module)  # type: ignore[arg-type]


def twins(
    shape: tuple[int, ...], task: Task = TASK, **options: object
) -> tuple[VirtualForward, OwnVirtual, list[nn.Parameter]]:
    """Both kinds of M with equal parameters in float64, and the second's, in the first one's shapes."""
    built_in = VirtualForward(VfbnOptions(hidden=HIDDEN, **options), shape, task).double()  # type: ignore[arg-type]
    positions = task is LANGUAGE
    size = shape[-1] if positions else built_in.maps[0].weight.shape[0]
    front: list[nn.Module] = [Means()] if len(shape) == 3 else [] if positions else [nn.Flatten()]
    same = own(nn.Sequential(*front, *plain(size, task.outputs)), shape, task, **options).double()
    linear = [each for each in same.v.modules() if isinstance(each, nn.Linear)]
    with torch.no_grad():
        for affine, layer in zip(built_in.maps, linear, strict=True):
            layer.weight.copy_(affine.weight.t())
            layer.bias.copy_(affine.bias)
    return built_in, same, [each for layer in linear for each in layer.parameters()]


def check_gradients(built_in: VirtualForward, others: list[nn.Parameter]) -> None:
    for parameter, other in zip(built_in.parameters(), others, strict=True):
        assert parameter.grad is not None
        assert other.grad is not None
        twin = other.grad.t() if other.dim() == 2 else other.grad
        torch.testing.assert_close(twin, parameter.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("supervised", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("shape", "task"),
    [((6,), TASK), ((3, 2), TASK), (SHAPE, TASK), ((T, D), LANGUAGE)],
    ids=["vectors", "matrices", "feature maps", "sequence"],
)
def test_autograd_gives_the_closed_form_of_the_built_in_v(
    shape: tuple[int, ...], task: Task, supervised: float
) -> None:
    built_in, same, others = twins(shape, task, supervised=supervised)
    h, delta = torch.randn(2, BATCH, *shape, dtype=torch.float64)
    y = torch.randint(V, (BATCH, T)) if task is LANGUAGE else torch.randint(CLASSES, (BATCH,))
    torch.testing.assert_close(same.gradient(h, y), built_in.gradient(h, y), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(same.learn(h, y, delta), built_in.learn(h, y, delta), rtol=1e-10, atol=1e-12)
    check_gradients(built_in, others)
    # As a head, a second time into the same .grads.
    for one, other in zip(same.supervise(h, y), built_in.supervise(h, y), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    check_gradients(built_in, others)


def normed() -> nn.Module:
    convolution = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU())
    return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))


def example() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(BATCH, *SHAPE), torch.randint(CLASSES, (BATCH,)), torch.randn(BATCH, *SHAPE)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])]


def test_batch_norm_has_running_statistics_in_predictions_and_moves_once_a_lesson() -> None:
    module = own(normed(), SHAPE)
    (norm,) = (each for each in module.modules() if isinstance(each, nn.BatchNorm2d))
    h, y, delta = example()
    module.learn(h, y, delta)
    assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]
    module.supervise(h, y)
    assert int(norm.num_batches_tracked) == 2  # type: ignore[arg-type]
    before = state(module)
    whole = module.gradient(h, y)
    for row in range(BATCH):
        alone = module.gradient(h[row : row + 1], y[row : row + 1])
        torch.testing.assert_close(alone[0], whole[row])
    assert not changed(module, before)


def test_learning_follows_the_batch_s_statistics() -> None:
    module = own(normed(), SHAPE, supervised=0.0).double()
    h, y, delta = (each.double() if each.is_floating_point() else each for each in example())
    module.train()
    leaf = h.clone().requires_grad_()
    total = nn.functional.cross_entropy(module.v(leaf), y, reduction="sum")
    (synthetic,) = torch.autograd.grad(total, leaf, create_graph=True)
    loss = (synthetic - delta).square().sum() / BATCH
    expected = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    torch.testing.assert_close(module.learn(h, y, delta), loss.detach())
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(
            parameter.grad, torch.zeros_like(parameter) if gradient is None else gradient
        )


def test_a_frozen_v_changes_nothing_and_learns_nothing() -> None:
    module = own(normed(), SHAPE, trained=False)
    h, y, delta = example()
    before = state(module)
    loss = module.learn(h, y, delta)
    module.supervise(h, y)
    assert not changed(module, before)
    assert all(each.grad is None for each in module.parameters())
    residual = module.gradient(h, y) - delta
    torch.testing.assert_close(loss, residual.square().sum() / BATCH)


def test_v_learns_the_true_gradient() -> None:
    module = own(normed(), SHAPE, supervised=0.0)
    flat = Flat(module)
    optimizer = torch.optim.Adam(flat.learned, lr=0.01)
    h, y, _ = example()
    delta = own(normed(), SHAPE).gradient(h, y)
    losses = []
    for _ in range(60):
        losses.append(float(module.learn(h, y, delta)))
        optimizer.step()
        flat.clear_gradients()
    assert losses[-1] < 0.5 * losses[0]


class Wrong(nn.Module):
    """A v of which some part is wrong."""

    def __init__(self, forward: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, CLASSES))
        self._forward = forward

    def forward(self, h: Tensor) -> object:
        output = h @ self.weight
        return self._forward(output)


class Cut(nn.Linear):
    """A v whose output has no gradient at h."""

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h.detach())


def more(tensor: Tensor) -> nn.Module:
    """A v with a parameter more, which nothing uses."""
    module = nn.Linear(6, CLASSES)
    module.register_parameter("more", tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor))
    return module


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Linear(6, 3), r"gives float32 \(2, 3\) for an h of \(2, 6\); it must give floats \(2, 4\)"),
        (nn.Linear(5, 4), r"fails for an h of \(2, 6\): mat1 and mat2"),
        (nn.Linear(6, 4).double(), r"fails for an h of \(2, 6\): mat1 and mat2 must have the same dtype"),
        (more(torch.zeros(1).double()), "parameter v.more is float64; parameters must be float32"),
        (more(nn.UninitializedParameter()), "has a parameter or buffer that cannot be kept: "),
        (nn.AdaptiveAvgPool1d(CLASSES), "has no parameters to train"),
        (Wrong(lambda output: (output, output)), "gives a tuple for an h"),
        (Wrong(lambda output: output / 0), "gives NaN or infinity"),
    ],
)
def test_what_is_no_v_is_refused_by_name(module: nn.Module, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^decoupling\.gradient_options\.v: own\.py:v: " + said):
        own(module)


@pytest.mark.parametrize(
    ("build", "heads"),
    [
        (lambda: Wrong(Tensor.detach), False),
        (lambda: Wrong(_once), False),
        (lambda: Cut(6, CLASSES), False),
        (lambda: Wrong(Tensor.detach), True),
        (lambda: Cut(6, CLASSES), True),
    ],
)
def test_a_v_without_a_derivative_is_refused_at_its_lesson(
    build: Callable[[], nn.Module], heads: bool
) -> None:
    module = own(build())
    h, y = torch.randn(BATCH, 6), torch.randint(CLASSES, (BATCH,))
    with pytest.raises(ConfigError, match=r"^decoupling\.gradient_options\.v: own\.py:v: .* without detach"):
        module.supervise(h, y) if heads else module.learn(h, y, torch.randn(BATCH, 6))


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_module_is_a_v() -> None:
    module = own(nn.Sequential(nn.LazyLinear(HIDDEN), nn.ReLU(), nn.LazyLinear(CLASSES)))
    assert module.learn(torch.randn(BATCH, 6), torch.randint(CLASSES, (BATCH,)), torch.randn(BATCH, 6)) > 0


def test_above_1024_tokens_v_gives_their_shared_classes() -> None:
    task = tasks.build(TaskConfig("language"), Targets(2000, (T,)))
    module = own(nn.Linear(D, 1024), (T, D), task)
    h, delta = torch.randn(2, BATCH, T, D)
    assert module.learn(h, torch.randint(2000, (BATCH, T)), delta) > 0
    with pytest.raises(ConfigError, match=r"must give floats \(2, 4, 1024\), output_shape for each example"):
        own(nn.Linear(D, 2000), (T, D), task)


class Views(nn.Linear):
    """A v that takes a view of the usual order in memory."""

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h.view(len(h), -1))


def test_v_takes_feature_maps_whose_channels_came_last_in_memory() -> None:
    module = own(Views(64, CLASSES), SHAPE)
    h, y, delta = example()
    last = h.to(memory_format=torch.channels_last)
    torch.testing.assert_close(module.gradient(last, y), module.gradient(h, y))
    torch.testing.assert_close(module.learn(last, y, delta), module.learn(h, y, delta))
    torch.testing.assert_close(module.supervise(last, y), module.supervise(h, y))


class Full(nn.Linear):
    """A v for which a training machine has no memory, in the forward or in the backward."""

    behind = False

    def forward(self, h: Tensor) -> Tensor:
        output = super().forward(h)
        if self.training and not self.behind:
            raise torch.cuda.OutOfMemoryError("no memory")
        if self.training:
            output.register_hook(_fill)  # type: ignore[no-untyped-call]
        return output


def _fill(gradient: Tensor) -> Tensor:
    raise torch.cuda.OutOfMemoryError("no memory")


@pytest.mark.parametrize("behind", [False, True])
def test_a_machine_s_lack_of_memory_is_no_fault_of_v(behind: bool) -> None:
    v = Full(6, CLASSES)
    v.behind = behind
    h, y = torch.randn(BATCH, 6), torch.randint(CLASSES, (BATCH,))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        own(v).supervise(h, y)


class _Once(torch.autograd.Function):
    """The identity, with one derivative."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, g: Tensor) -> Tensor:
        return g.clone()


def _once(x: Tensor) -> Tensor:
    copied: Tensor = _Once.apply(x)  # type: ignore[no-untyped-call]
    return copied
