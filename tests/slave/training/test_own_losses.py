"""Losses of units' own in training: as autograd of the total loss; under every unlock, backward and clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from common.config.late import BACKWARDS
from common.config.optimizer import OptimizerConfig
from common.config.unlocks import UNLOCKS
from common.errors import ConfigError
from common.models import network
from common.models.recurrent import pass_on
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.values import plain
from common.wire.boundary import Down, Message, Up
from deploy.evaluation.evaluator import Evaluator
from deploy.evaluation.passage import Passage
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep
from slave.training import backwards
from slave.training.health import Health
from slave.training.layer import Layer
from slave.training.top import Top
from slave.training.unlocks.delayed import DelayedUnlock, Late
from slave.training.unlocks.none import NoUnlock
from tests.classifying import classifying
from tests.deploy.runs import loaded
from tests.slave.training.test_carried import recurrent_layer

B, WIDTH, CLASSES = 8, 5, 3
SGD = OptimizerConfig(name="sgd", learning_rate=1.0)


class Deep(nn.Module):
    """A hidden unit with a classifier of its own."""

    def __init__(self, size: int, weight: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(size, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, CLASSES))
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.body(x)
        return h

    def losses(self, h: Tensor, y: Tensor) -> Tensor:
        return self.weight * F.cross_entropy(self.head(h), y, reduction="none")


def units_of(weights: list[float | None], dropout: float = 0.0) -> list[nn.Module]:
    """Hidden units with own losses of these weights (None: without), then the output."""
    hidden = [nn.Linear(WIDTH, WIDTH) if each is None else Deep(WIDTH, each, dropout) for each in weights]
    return [*hidden, nn.Linear(WIDTH, CLASSES)]


def build_layer(k: int, units: list[nn.Module], health: Health | None = None, **more: Any) -> Layer:
    flat = Flat(nn.Sequential(*units).train())
    return Layer(k, flat, Stepper(flat, SGD, 100), seed=7, health=health, **more)


def total(units: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    """L of a batch: the task's loss and the units' own, summed over the examples."""
    h, _, _, own = pass_on(units, x, None, y)
    return F.cross_entropy(plain(h), y, reduction="sum") + sum(losses.sum() for losses in own)


def batch_of(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, WIDTH, generator=generator), torch.randint(CLASSES, (B,), generator=generator)


def only(messages: Iterator[Message], kind: type[Message]) -> Any:
    (found,) = [message for message in messages if isinstance(message, kind)]
    return found


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.none() | st.floats(0.1, 3.0), min_size=1, max_size=4),
    st.data(),
)
def test_without_unlock_layers_step_on_the_gradient_of_the_total_loss(
    seed: int, weights: list[float | None], data: st.DataObject
) -> None:
    torch.manual_seed(seed)
    units, (x, y) = units_of(weights), batch_of(seed)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(weights)), max_size=3)))
    twin = units_of(weights)
    nn.Sequential(*twin).load_state_dict(nn.Sequential(*units).state_dict())
    total(twin, x, y).backward()  # type: ignore[no-untyped-call]

    starts = [0, *cuts, len(units)]
    layers = [build_layer(k, units[starts[k - 1] : starts[k]]) for k in range(1, len(starts))]
    below, h = [NoUnlock(layer) for layer in layers[:-1]], x
    for unlock in below:
        h = only(unlock.forward(0, h, y), Up).h
    down = list(Top(layers[-1], Health(), classifying(CLASSES)).forward(0, h, y))
    for unlock in reversed(below):
        down = list(unlock.gradient(0, only(iter(down), Down).delta))
    # With a rate of 1, a step is the gradient of the sum, divided by B.
    torch.manual_seed(seed)
    initial = units_of(weights)
    for before, after, true in zip(
        nn.Sequential(*initial).parameters(),
        nn.Sequential(*units).parameters(),
        nn.Sequential(*twin).parameters(),
        strict=True,
    ):
        assert true.grad is not None
        torch.testing.assert_close(before - after, true.grad / B, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backward", BACKWARDS)
def test_a_late_backward_has_the_own_loss_of_its_batch_and_moves_statistics_once(backward: str) -> None:
    torch.manual_seed(0)
    units = units_of([1.5], dropout=0.5)[:1]
    health = Health()
    layer = build_layer(1, units, health)
    unlock = DelayedUnlock(Late(layer, backwards.build(backward, layer)))
    batches = [batch_of(seed) for seed in (1, 2)]
    sent = [only(unlock.forward(b, *batches[b]), Up).h for b in (0, 1)]
    deltas = [torch.randn_like(h) for h in sent]
    for b in (0, 1):
        with layer.flat.keep_buffers():
            passed = layer.forward(b, *batches[b])
            (own,) = passed.losses
            wanted = torch.autograd.grad([plain(passed.h), own.sum()], layer.flat.learned, [deltas[b], None])
        before = [each.detach().clone() for each in layer.flat.learned]
        list(unlock.gradient(b, deltas[b]))
        # The first batch is not late, so that every backward has the same weights.
        if b == 0:
            for old, new, true in zip(before, layer.flat.learned, wanted, strict=True):
                torch.testing.assert_close(old - new, true / B, rtol=1e-4, atol=1e-5)
    counted = [int(buffer) for name, buffer in units[0].named_buffers() if name.endswith("tracked")]
    assert counted == [2, 2]
    assert health.own_loss > 0


def test_a_window_that_ends_in_m_in_time_takes_an_own_loss_as_any_loss() -> None:
    class Squares(nn.Identity):
        def losses(self, h: Tensor, y: Tensor) -> Tensor:
            return (h - 1.5).square().sum((1, 2))

    found = []
    for own in (False, True):
        layer = recurrent_layer(0)
        if own:
            units = [*layer.flat.module.children(), Squares()]
            flat = Flat(nn.Sequential(*units))
            layer = Layer(
                2, flat, Stepper(flat, SGD, 10), carried=layer.carried, future=layer.future, health=Health()
            )
        x = torch.linspace(-1, 1, 2 * 4 * 3).view(2, 4, 3)
        for batch in (0, 1):
            passed = layer.forward(batch, x, torch.zeros(2) if own else None)
            if own:
                layer.backward_own(passed)
            else:
                layer.backward_loss(passed, (plain(passed.h) - 1.5).square().sum())
        found.append([plain(passed.u).grad, *layer.flat.gradients()])
    for plainly, by_unit in zip(*found, strict=True):
        torch.testing.assert_close(plainly, by_unit)


def test_under_autocast_an_own_loss_is_float32_and_teaches_as_before() -> None:
    found = []
    for autocast in (None, torch.bfloat16):
        torch.manual_seed(0)
        layer = build_layer(1, units_of([1.0])[:1], autocast=autocast)
        passed = layer.forward(0, *batch_of(0))
        assert passed.losses[0].dtype == torch.float32
        layer.backward_own(passed)
        found.append(torch.cat([each.flatten() for each in layer.flat.gradients()]))
    exact, rough = found
    assert not torch.equal(exact, rough)
    assert F.cosine_similarity(exact, rough, dim=0) > 0.99


def test_a_loss_of_another_shape_ends_training_with_the_units_number() -> None:
    layer = build_layer(1, units_of([1.0])[:1], first_unit=4)
    layer.flat.module[0].losses = lambda h, y: h.mean()  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"^unit 4 gives its own loss as float32 \(\) for 8 examples; "):
        layer.forward(0, *batch_of(0))


OWN = """
import torch
from torch import nn
from torch.nn import functional as F

class Deep(nn.Module):
    def __init__(self, size, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.ReLU())
        self.head = nn.Linear(16, classes)
    def forward(self, x):
        return self.body(x)
    def losses(self, h, y):
        return F.cross_entropy(self.head(h), y, reduction="none")
    def metrics(self, h, y):
        return {"error_percent": 100.0 * (self.head(h).argmax(1) != y)}

def build(classes):
    return [Deep(64, classes), nn.Linear(16, classes)]
"""


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    (tmp_path / "own.py").write_text(OWN)
    return [
        f"network.model={tmp_path}/own.py:build", "network.cuts=[1]", "run.batches=120", "run.batch_size=32",
        "optimizer.learning_rate=0.01",
    ]  # fmt: skip


@pytest.mark.parametrize("unlock", UNLOCKS)
@pytest.mark.parametrize("run", [InStep, Driver])
def test_under_every_unlock_a_layer_learns_its_own_loss_and_evaluations_measure_it(
    own: list[str], unlock: str, run: type[InStep | Driver]
) -> None:
    more = ["cluster.profile=synchronous"] if run is InStep else ["downpour.replicas=2", "downpour.n_push=2"]
    # With feedback alignment a unit's own loss takes the fixed ways, too, and is learned later.
    more += ["decoupling.alignment=direct"] * UNLOCKS[unlock].aligns
    if unlock == "delayed":
        more += ["cluster.autocast=bfloat16", *["optimizer.accumulate=2"] * (run is InStep)]
    config, dataset = loaded([*own, f"decoupling.unlock={unlock}", *more])
    trained = InStep(config, dataset) if run is InStep else Driver(config, dataset, trains=True)
    for _ in trained.run():
        pass
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    measured = evaluator.measure(evaluator.pull(trained.pull))
    metrics = config.order_metrics(measured.metrics)
    assert list(metrics) == ["error_percent", "unit_1_error_percent", "unit_1_loss"]
    assert metrics["unit_1_error_percent"] < 40
    assert metrics["unit_1_loss"] < 1.5
    by_layer = {seat.layer: seat.telemetry for seat in trained.seats()}
    assert by_layer[1].own_loss > 0
    assert by_layer[2].own_loss == 0
    if run is Driver:
        # Its own loss stands in the place of the head of `local`.
        assert ("1/gradient" in trained.status().versions) == UNLOCKS[unlock].synthesizes


def test_without_computing_a_layer_with_a_loss_of_its_own_has_no_head(own: list[str]) -> None:
    config, dataset = loaded([*own, "decoupling.unlock=local"])
    run = Driver(config, dataset, trains=False)
    for _ in run.run():
        pass
    assert set(run.status().versions) == {"1/weights", "2/weights"}


def test_a_unit_that_occurs_twice_is_passed_twice() -> None:
    """Layers with a state, and evaluations over streams, used to leave out the second."""
    torch.manual_seed(0)
    tanh = nn.Tanh()
    units = [*units_of([1.0])[:1], tanh, nn.Linear(WIDTH, WIDTH), tanh]
    x, y = batch_of(0)
    layer = build_layer(1, units)
    assert torch.equal(plain(layer.forward(0, x, y).h), nn.Sequential(*units)(x))
    measured = Passage(nn.Sequential(*units).eval(), carries=True).measure(x, y)
    assert torch.equal(plain(measured), nn.Sequential(*units)(x))
