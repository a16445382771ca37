"""Signals of named tensors through real workers: a mask, positions and a skip connection across cuts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from common.config.files import load
from common.config.optimizer import OptimizerConfig
from common.config.sections import Config
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.errors import ConfigError, MalformedError
from common.models import network
from common.models.network import Blueprint
from common.models.rehearsal import rehearse
from common.optim.stepper import Stepper
from common.shards.flat import Flat, state_dict
from common.signals.forms import SignalForm, TensorForm
from common.signals.values import split
from common.wire.boundary import Down
from deploy.evaluation.evaluator import Evaluator
from deploy.simulation.synchronous import InStep
from slave.training.decoupling import PackedPredictor, check_gradient
from slave.training.layer import Layer
from tests.slave.chain import digits

MOST = 1 << 28
SGD = ("optimizer.name=sgd", "optimizer.learning_rate=0.1")
# Three layers: rows of digits, masked where they are empty; the pixels skip the second layer.
OWN = """
import torch
from torch import nn
class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Linear(8, 16), nn.Embedding(8, 16)
    def forward(self, x):
        rows = x.squeeze(1)
        places = torch.arange(8).expand(len(x), 8)
        return {"h": self.embed(rows), "places": places, "mask": rows.std(2) > 0.5, "skip": x.flatten(1)}
class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.work, self.places = nn.Linear(16, 16), nn.Embedding(8, 16)
    def forward(self, s):
        h = s["h"] + self.places(s["places"])
        s = {name: s[name] for name in ("mask", "skip")}
        return {"h": h + torch.tanh(self.work(h)) * s["mask"].unsqueeze(2), **s}
class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.rows, self.pixels = nn.Linear(16, classes), nn.Linear(64, classes)
    def forward(self, s):
        mask = s["mask"].float().unsqueeze(2)
        return self.rows((s["h"] * mask).sum(1) / mask.sum(1).clamp(min=1)) + self.pixels(s["skip"])
def build(classes):
    return [Rows(), Mix(), Head(classes)]
def dropping(classes):
    class Drops(Mix):
        def forward(self, s):
            mixed = super().forward(s)
            del mixed["mask"]
            return mixed
    return [Rows(), Drops(), Head(classes)]
"""


@pytest.fixture
def own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)


def configured(*settings: str, function: str = "build") -> tuple[Config, Dataset, Blueprint]:
    config = load(
        None,
        [
            f"network.model=own.py:{function}", "network.layers=3", "run.batches=40", "run.batch_size=32",
            "cluster.profile=synchronous", *settings,
        ],
    )  # fmt: skip
    blueprint = network.build(config, digits().inputs, digits().targets)
    return network.cut(config, blueprint), digits(), blueprint


@pytest.mark.usefixtures("own")
def test_with_unlock_none_named_signals_are_plain_back_propagation() -> None:
    config, dataset, blueprint = configured(
        "decoupling.unlock=none", "optimizer.name=sgd", "optimizer.learning_rate=0.1"
    )
    run = InStep(config, dataset)
    assert list(run.run())[-1] == 40
    plain = nn.Sequential(*blueprint.units).train()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    batches = Batches(dataset, config.run.seed, config.run.batch_size)
    for batch in range(40):
        optimizer.zero_grad()
        x, y = batches.inputs(batch), batches.labels(batch)
        nn.functional.cross_entropy(plain(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for k in (1, 2, 3):
        header, buffer = run.pull(f"{k}/weights")
        for name, tensor in state_dict(header.table, buffer).items():
            wanted = plain.state_dict()[network.plain_name(config.network.cuts or [], k, name)]
            assert torch.allclose(tensor, wanted, rtol=1e-4, atol=1e-6), (k, name)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    "settings",
    [
        ("decoupling.unlock=update",),
        ("decoupling.unlock=update", "decoupling.gradient=cdni"),
        ("decoupling.unlock=delayed", "decoupling.shrink=0.5"),
        ("decoupling.unlock=local",),
        ("decoupling.unlock=update", "decoupling.mix_true=true", "cluster.autocast=bfloat16"),
    ],
    ids=str,
)
def test_every_unlock_learns_on_named_signals(settings: tuple[str, ...]) -> None:
    config, dataset, blueprint = configured("run.batches=150", "optimizer.learning_rate=0.01", *settings)
    rehearse(config, dataset, MOST)
    run = InStep(config, dataset)
    assert list(run.run())[-1] == 150
    evaluator = Evaluator(config, dataset, blueprint)
    error = evaluator.measure(evaluator.pull(run.pull)).test_error_percent
    assert error is not None
    assert error < 25


@pytest.mark.usefixtures("own")
def test_gradients_go_down_for_floats_alone_and_are_zero_where_a_layer_has_no_use() -> None:
    class Ignores(nn.Module):
        def forward(self, s: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"h": 3 * s["h"], "mask": s["mask"]}

    flat = Flat(Ignores())
    layer = Layer(2, flat, Stepper(flat, OptimizerConfig(), 10))
    below = {"h": torch.ones(4, 2), "skip": torch.ones(4, 3), "mask": torch.ones(4, 5, dtype=torch.bool)}
    passed = layer.forward(0, below)
    layer.backward(passed, {"h": torch.full((4, 2), 2.0)})
    (down,) = layer.down(passed)
    assert isinstance(down, Down)
    deltas = split(down.delta)
    assert {name: sorted(set(delta.flatten().tolist())) for name, delta in deltas.items()} == {
        "h": [6.0],
        "skip": [0.0],
    }
    with pytest.raises(MalformedError, match=r"came for an h of 4 \{h: \(B, 2\)\}"):
        check_gradient(deltas, passed.h)


def test_a_weight_passed_on_stays_as_sent_when_the_layer_steps() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.ones(2))

        def forward(self, h: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"h": h, "places": self.places.expand(len(h), 2)}

    flat = Flat(Places())
    layer = Layer(1, flat, Stepper(flat, OptimizerConfig(name="sgd", learning_rate=1.0), 10))
    passed = layer.forward(0, torch.zeros(4, 2))
    layer.backward(passed, {"h": torch.zeros(4, 2), "places": torch.ones(4, 2)})
    layer.step(0, 4)
    assert flat.parameters.tolist() == [0, 0]
    assert split(passed.h)["places"].tolist() == [[1, 1]] * 4


@pytest.mark.usefixtures("own")
def test_a_layer_that_drops_a_needed_tensor_is_named_before_the_start() -> None:
    told = r'unit 3 \(Head.* needs the tensor "mask", which unit 2 \(Drops.* drops'
    with pytest.raises(ConfigError, match=told):
        configured(function="dropping")


@pytest.mark.usefixtures("own")
def test_full_refuses_integers_that_are_not_of_the_data() -> None:
    told = r'unit 1 of .*own.py:build passes on "places", int64 \(B, 8\), which is no'
    with pytest.raises(ConfigError, match=told):
        configured("decoupling.unlock=full")


def test_i_predicts_floats_and_takes_integers_from_the_data() -> None:
    class Doubles:
        def predict(self, batch: int, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x], 1)

        def learn(self, batch: int, x: torch.Tensor, h: torch.Tensor) -> None:
            lessons.append(h)

    lessons: list[torch.Tensor] = []
    mask = TensorForm((3,), "bool")
    inputs = SignalForm({"x": TensorForm((2,)), "mask": mask})
    below = SignalForm({"h": TensorForm((3,)), "mask": mask, "skip": TensorForm((1,))})
    predictor = PackedPredictor(Doubles(), inputs, below)
    x = {"x": torch.tensor([[1.0, 2.0]]), "mask": torch.tensor([[True, False, True]])}
    predicted = split(predictor.predict(0, x))
    assert {name: tensor.tolist() for name, tensor in predicted.items()} == {
        "h": [[1.0, 2.0, 1.0]], "skip": [[2.0]], "mask": [[True, False, True]],
    }  # fmt: skip
    assert list(predicted) == ["h", "mask", "skip"]
    predictor.learn(0, x, predicted)
    assert lessons[0].tolist() == [[1.0, 2.0, 1.0, 2.0]]
