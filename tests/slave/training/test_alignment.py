"""Unlock `alignment`: feedback alignment, direct feedback alignment, kickback."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from common import tasks
from common.config.optimizer import OptimizerConfig
from common.config.sections import Config
from common.config.task import TaskConfig
from common.data import batches
from common.data.batches import Batches
from common.data.targets import Targets
from common.errors import MalformedError
from common.models import network
from common.models.feedback import feed_back
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.forms import SignalForm
from common.signals.packing import Packing
from common.signals.values import form_of, plain, split
from common.wire.boundary import Down, Lost, OutputGradient, Taken, Up
from slave.training.alignments.direct import RandomProjection
from slave.training.alignments.kickback import SumProjection
from slave.training.broadcast import BroadcastingTop, ProjectedUnlock
from slave.training.health import Health
from slave.training.layer import Layer
from tests.slave.chain import Chain, configured, digits

SGD = OptimizerConfig(name="sgd", learning_rate=0.1)
OUTPUT = SignalForm.plain((3,))


def aligned(way: str, **keys: Any) -> Config:
    return configured(unlock="alignment", decoupling={"alignment": way}, **keys)


def whole(config: Config) -> list[nn.Module]:
    return network.build(config, digits().inputs, digits().targets).units


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(k: int, *, teaches_below: bool = True) -> Layer:
    torch.manual_seed(4)
    flat = Flat(nn.Sequential(nn.Linear(6, 5), nn.Tanh()))
    return Layer(k, flat, Stepper(flat, SGD, 10), goes_down=False, teaches_below=teaches_below)


def projection(shape: tuple[int, ...] = (5,), seed: int = 9) -> RandomProjection:
    packing = Packing(SignalForm.plain(shape))
    return RandomProjection(packing, (3,), positions=False, seed=seed, device="cpu")


# feedback


@pytest.mark.parametrize(
    "model", [{"options": {"widths": [16, 16, 16]}}, {"model": "cnn", "options": {"channels": [8, 8]}}]
)
@pytest.mark.parametrize("cuts", [None, 2])
def test_feedback_with_one_batch_out_is_feedback_alignment_of_the_whole_network_wherever_it_is_cut(
    model: dict[str, Any], cuts: int | None
) -> None:
    config = aligned("feedback", **model, batches=12, batch_size=16, in_flight=1, optimizer=SGD)
    units = whole(config)
    if cuts is not None:
        config = config.with_cuts([cuts])
    chain = Chain(config, seed=1, pushes=False).run()
    module = nn.Sequential(*units).train()
    feed_back(units, 1, config.run.seed, "cpu")
    stepping = torch.optim.SGD(module.parameters(), 0.1)
    source = Batches(digits(), config.run.seed, 16)
    for batch in range(12):
        stepping.zero_grad()
        functional.cross_entropy(module(source.inputs(batch)), source.labels(batch)).backward()  # type: ignore[no-untyped-call]
        stepping.step()
    for ours, theirs in zip(chain.network().parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# direct, kickback


def test_direct_passes_the_error_on_first_and_steps_on_its_projection_at_the_present_weights() -> None:
    layer, project = layer_of(2), projection()
    unlock, x, y = ProjectedUnlock(layer, project, OUTPUT), draw(1, 4, 6), torch.zeros(4)
    (up,) = unlock.forward(0, x, y)
    assert isinstance(up, Up)
    list(unlock.forward(1, draw(2, 4, 6), y))
    list(unlock.gradient(1, draw(3, 4, 3)))
    linear = layer.flat.module[0]  # type: ignore[index]
    weight, error = linear.weight.detach().clone(), draw(5, 4, 3)
    messages = unlock.gradient(0, error)
    down = next(messages)
    assert isinstance(down, Down)
    assert torch.equal(plain(down.delta), error)
    assert torch.equal(linear.weight, weight)
    slope = 1 - linear(x).detach().tanh().square()
    assert list(messages) == []
    expected = (error @ project.matrix * slope).T @ x
    torch.testing.assert_close(linear.weight.detach(), weight - 0.1 * expected / 4)
    assert not unlock.waiting()
    assert not unlock.sent()


def test_a_layer_steps_on_what_it_hears_from_layer_k_and_not_again_on_the_answer() -> None:
    layer = layer_of(2)
    unlock, error = ProjectedUnlock(layer, projection(), OUTPUT), draw(5, 4, 3)
    for batch in range(2):
        list(unlock.forward(batch, draw(1, 4, 6), torch.zeros(4)))
    (down,) = unlock.hear(0, error)
    assert isinstance(down, Down)
    stepped = layer.flat.parameters.clone()
    assert list(unlock.waiting()) == [1]
    # Its own answer is still to come, and layer 3 may have to get h_2(0) again.
    assert list(unlock.sent()) == [0, 1]
    assert list(unlock.gradient(0, error)) == []
    assert torch.equal(layer.flat.parameters, stepped)
    (lost,) = unlock.lost(1)
    assert isinstance(lost, Lost)
    assert not unlock.sent()


def test_in_a_chain_a_layer_may_answer_before_the_layer_above_since_it_hears_layer_k() -> None:
    config = aligned("direct", options={"widths": [6, 6, 6]}, batches=20)
    early = 0
    for seed in range(8):
        chain = Chain(config, seed, gathered=True).run()
        told = Counter((m.layer, m.batch) for m in chain.sent if isinstance(m, OutputGradient))
        assert told == dict.fromkeys(((k, b) for k in (1, 2) for b in range(20)), 1)
        answers = [(m.layer, m.batch) for m in chain.sent if isinstance(m, Down)]
        assert len(answers) == len(set(answers)) == 3 * 20
        early += sum(answers.index((1, batch)) < answers.index((2, batch)) for batch in range(20))
        assert [slave.layer.stepped for slave in chain.slaves[-1:]] == [list(range(20))]
        for slave in chain.slaves:
            assert sorted(slave.layer.stepped) == list(range(20))
            assert slave.trainer.lost_batches == 0
    assert early > 5


def test_a_layer_with_no_use_below_says_taken_and_another_form_is_refused() -> None:
    unlock = ProjectedUnlock(layer_of(2, teaches_below=False), projection(), OUTPUT)
    for batch in range(2):
        list(unlock.forward(batch, draw(1, 4, 6), torch.zeros(4)))
    (answer,) = unlock.gradient(0, draw(2, 4, 3))
    assert isinstance(answer, Taken)
    with pytest.raises(MalformedError, match=r"gradient\" of batch 1 came as \(4, 5\), not \(4, 3\)"):
        list(unlock.gradient(1, draw(2, 4, 5)))


def test_layer_k_sends_the_losss_gradient_in_its_output_and_steps_as_under_back_propagation() -> None:
    torch.manual_seed(4)
    twin = nn.Linear(6, 3)
    flat = Flat(nn.Sequential(nn.Linear(6, 3)))
    flat.module.load_state_dict({"0.weight": twin.weight, "0.bias": twin.bias})
    task = tasks.build(TaskConfig(), Targets(3))
    layer = Layer(2, flat, Stepper(flat, SGD, 10), goes_down=False, teaches_below=True)
    x, y = draw(1, 4, 6), torch.tensor([0, 1, 2, 0])
    heard, down = BroadcastingTop(layer, Health(), task).forward(0, x, y)
    assert isinstance(heard, OutputGradient)
    assert isinstance(down, Down)
    assert heard.error is down.delta
    output = twin(x)
    error = output.detach().softmax(1) - functional.one_hot(y, 3)
    torch.testing.assert_close(plain(down.delta), error)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(output, y), twin.weight)
    torch.testing.assert_close(flat.module[0].weight.detach(), twin.weight.detach() - 0.1 * gradient)  # type: ignore[index]


def test_a_layer_k_without_parameters_has_an_error_too() -> None:
    task = tasks.build(TaskConfig(), Targets(3))
    flat = Flat(nn.Sequential(nn.Tanh()))
    layer = Layer(2, flat, Stepper(flat, SGD, 10), goes_down=False, teaches_below=True)
    x, y = draw(1, 4, 3), torch.tensor([0, 1, 2, 0])
    _, down = BroadcastingTop(layer, Health(), task).forward(0, x, y)
    assert isinstance(down, Down)
    torch.testing.assert_close(plain(down.delta), x.tanh().softmax(1) - functional.one_hot(y, 3))


def test_the_fixed_matrix_is_that_of_seed_and_layer_and_of_no_shard() -> None:
    config = aligned("direct", options={"widths": [6, 6]}, batches=4)

    def matrices(chain: Chain) -> list[Tensor]:
        unlocks: list[Any] = [slave.trainer._unlock for slave in chain.slaves[:-1]]
        return [unlock._project.matrix for unlock in unlocks]

    chains = [Chain(config, seed).run() for seed in (1, 2)]
    first, again = map(matrices, chains)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])
    assert set(chains[0].store.versions()) == {"1/weights", "2/weights", "3/weights"}


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_projections_serve_vectors_feature_maps_and_positions(shape: tuple[int, ...]) -> None:
    error = draw(1, 4, 3)
    packing = Packing(SignalForm.plain(shape))
    whole_map = plain(projection(shape)(error))
    assert whole_map.shape == (4, *shape)
    torch.testing.assert_close(whole_map.flatten(1), error @ projection(shape).matrix)
    added = plain(SumProjection(packing, positions=False)(error))
    torch.testing.assert_close(added, error.sum(1).view(4, *[1] * len(shape)).expand_as(added))


def test_a_row_for_each_position_gets_the_error_of_its_own_position() -> None:
    packing, errors = Packing(SignalForm.plain((7, 5))), draw(1, 4, 7, 3)
    project = RandomProjection(packing, (7, 3), positions=True, seed=9, device="cpu")
    assert project.matrix.shape == (3, 5)
    torch.testing.assert_close(plain(project(errors)), errors @ project.matrix)
    added = plain(SumProjection(packing, positions=True)(errors))
    torch.testing.assert_close(added, errors.sum(2, keepdim=True).expand(4, 7, 5))


def test_a_signal_of_several_tensors_gets_a_gradient_for_each_float_alone() -> None:
    form = form_of({"a": draw(1, 4, 5), "b": draw(1, 4, 2), "mask": torch.zeros(4, 2, dtype=torch.bool)})
    project = RandomProjection(Packing(form), (3,), positions=False, seed=9, device="cpu")
    found, error = split(project(draw(2, 4, 3))), draw(2, 4, 3)
    assert list(found) == ["a", "b"]
    torch.testing.assert_close(torch.cat([found["a"], found["b"]], 1), error @ project.matrix)


def test_kickback_is_exact_where_the_layers_above_add_up_by_weights_of_one() -> None:
    """Czarnecki et al. 2017, table 1: (dL/dp) 1^T is the gradient of p = h 1 + b."""
    task = tasks.build(TaskConfig(kind="regression"), Targets(0, (2,)))
    above = nn.Linear(5, 2)
    nn.init.ones_(above.weight)
    h, y = draw(1, 4, 5).requires_grad_(), draw(2, 4, 2)
    output = above(h)
    loss = task.total(output, y)
    error, delta = torch.autograd.grad(loss, [output, h])
    project = SumProjection(Packing(SignalForm.plain((5,))), positions=False)
    torch.testing.assert_close(plain(project(error)), delta)


def angles(config: Config, chain_of: list[nn.Module], k: int, matrix: Tensor) -> float:
    """Return the angle, in degrees, between (dL/dp) A_k^T and delta_k on 512 training examples."""
    source = Batches(digits(), seed=99, batch_size=512)
    x, y = source.inputs(0), source.labels(0)
    h = nn.Sequential(*chain_of[:k])(x).detach().requires_grad_()
    output = nn.Sequential(*chain_of[k:])(h)
    error, delta = torch.autograd.grad(functional.cross_entropy(output, y, reduction="sum"), [output, h])
    cosine = functional.cosine_similarity((error @ matrix).flatten(), delta.flatten(), dim=0)
    return math.degrees(math.acos(float(cosine)))


def test_dfas_angle_to_the_gradient_falls_far_under_90_degrees_in_training() -> None:
    config = aligned(
        "direct", options={"widths": [64, 64]}, batches=300, batch_size=32, in_flight=1,
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3),
    )  # fmt: skip
    chain = Chain(config, seed=3, pushes=False)
    unlocks: list[Any] = [slave.trainer._unlock for slave in chain.slaves[:-1]]
    matrices = [unlock._project.matrix for unlock in unlocks]

    def measure() -> list[float]:
        units = [slave.flat.module for slave in chain.slaves]
        return [angles(config, units, k, matrix) for k, matrix in enumerate(matrices, 1)]

    before = measure()
    chain.run()
    after = measure()
    assert all(75 < angle < 105 for angle in before)
    assert all(angle < 70 for angle in after)
    module = chain.network().eval()
    with torch.no_grad():
        wrong = sum(int((module(x).argmax(1) != y).sum()) for x, y in batches.test_batches(digits()))
    assert wrong < 0.15 * len(digits().test)
