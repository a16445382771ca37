"""Layers where nothing learns, nor below: no gradient is sent to them, and they have no M and no head."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn

from common.config.unlocks import UNLOCKS
from common.data.batches import Batches
from common.errors import MalformedError
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.values import plain, split
from common.wire.boundary import Down, Message
from deploy.evaluation.evaluator import pull_network
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep
from slave.training.fixed import Fixed
from slave.training.layer import Layer
from tests.deploy.runs import digits, hollow, resolved, trained

# Layers: frozen with dropout, without parameters, learning, without parameters, learning.
OWN = """
from torch import nn
def build():
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.2)).requires_grad_(False)
    return [first, nn.Tanh(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10)]
"""


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    (tmp_path / "own.py").write_text(OWN)
    return [f"network.model={tmp_path}/own.py:build", "network.options={}", "run.batches=40"]


def unlock(name: str) -> str:
    return f"decoupling.unlock={name}"


@pytest.mark.parametrize("name", UNLOCKS)
def test_gradients_go_down_to_layers_that_want_them_alone(keys: list[str], name: str) -> None:
    sent: list[tuple[int, int]] = []
    send = Driver._send

    def watch(driver: Driver, machine: object, message: Message) -> None:
        if isinstance(message, Down):
            sent.append((message.layer, len(split(message.delta))))
        send(driver, machine, message)  # type: ignore[arg-type]

    with patch.object(Driver, "_send", watch):
        # Layers of `full` must first learn to predict their inputs.
        run = trained(*keys, unlock(name), *(["run.batches=400"] if name == "full" else []))
    assert {layer for layer, _ in sent} == (set() if name == "local" else {3, 4})
    assert run.losses[-1] < run.losses[0]
    kinds = {"update": {3, 4}, "full": {3, 4}, "local": {3}}.get(name, set())
    assert {shard for shard in run.status.versions if shard.endswith("/gradient")} == {
        f"{layer}/gradient" for layer in kinds
    }
    assert min(run.status.versions[f"{layer}/weights"] for layer in range(1, 6)) > 3
    assert run.status.lost_batches == 0


@pytest.mark.parametrize("name", UNLOCKS)
def test_without_training_all_goes_as_it_does_with_it(keys: list[str], name: str) -> None:
    real, empty = trained(*keys, unlock(name)), hollow(*keys, unlock(name))
    told = empty.status()
    assert told.delays == real.status.delays
    assert told.versions == real.status.versions
    assert empty.seconds == real.seconds


@pytest.mark.parametrize("profile", ["basic", "synchronous"])
def test_back_propagation_above_fixed_layers_is_that_of_one_process(keys: list[str], profile: str) -> None:
    config = resolved(*keys[:2], "run.batches=20", unlock("none"), f"cluster.profile={profile}")
    synchronous = profile == "synchronous"
    run: InStep | Driver = InStep(config, digits()) if synchronous else Driver(config, digits(), trains=True)
    for _ in run.run():
        pass
    state = pull_network(config, run.pull).state
    torch.default_generator.manual_seed(config.run.seed)
    _, learning, last = nn.Linear(64, 16), nn.Linear(16, 12), nn.Linear(12, 10)
    flat = Flat(nn.Sequential(learning, nn.ReLU(), last))
    stepper = Stepper(flat, config.optimizer, 20)
    batches = Batches(digits(), config.run.seed, config.run.batch_size)
    fixed = _fixed_layer(config.run.seed)
    for batch in range(20):
        h = torch.tanh(plain(fixed.forward(batch, batches.inputs(batch)).h))
        y = batches.labels(batch)
        loss = nn.functional.cross_entropy(flat.module(h), y, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.step(batch, len(y))
    torch.testing.assert_close(state["2.weight"], learning.weight.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(state["4.weight"], last.weight.detach(), rtol=0, atol=1e-6)


def _fixed_layer(seed: int) -> Layer:
    torch.default_generator.manual_seed(seed)
    module = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.2)))
    flat = Flat(module.requires_grad_(False).train())
    return Layer(1, flat, Stepper(flat, resolved().optimizer, 20), seed)


def test_unanswered_batches_are_sent_again_and_a_gradient_is_refused() -> None:
    fixed = Fixed(_fixed_layer(0))
    x = torch.zeros(4, 1, 8, 8)
    for batch in range(2):
        assert len(list(fixed.forward(batch, x, torch.zeros(4)))) == 1
    assert list(fixed.waiting()) == list(fixed.sent()) == [0, 1]
    assert not list(fixed.lost(0))
    assert list(fixed.waiting()) == [1]
    with pytest.raises(MalformedError, match="same network"):
        fixed.gradient(1, torch.zeros(4, 16))
