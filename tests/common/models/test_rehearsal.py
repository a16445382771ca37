"""Rehearsal: what fails in every attempt is told before a run, with the unit and the key."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config.files import load
from common.config.models import MODELS
from common.config.sections import Config
from common.data import datasets
from common.data.datasets import Dataset
from common.data.examples import Arrays
from common.data.statistics import Scaling
from common.errors import ConfigError
from common.models.network import build
from common.models.rehearsal import check_messages, rehearse
from common.signals.forms import PLAIN

MOST = 256 << 20
HEAD = """
import torch
from torch import nn
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.register_buffer("seen", torch.zeros(1))
    def forward(self, x):
"""
TAIL = """
def build(classes):
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 64)), Own(), nn.Linear(64, classes)]
"""
GOOD = "        return self.linear(x)"
TRAINING = "        h = self.linear(x)\n        return {} if self.training else h"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load(load(None).data)


def own(folder: Path, body: str, *settings: str) -> Config:
    """A run whose second unit has this forward."""
    (folder / "own.py").write_text(HEAD + body + TAIL)
    return load(None, [f"network.model={folder}/own.py:build", "network.cuts=[1,2]", *settings])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("        with torch.no_grad():\n            return self.linear(x)", "passes no gradient back"),
        ("        return self.linear(x).detach()", "passes no gradient back"),
        ("        return self.linear(x.detach())", "passes no gradient back"),
        (TRAINING.format("(h, x)"), "gives a tuple; it must give float32 (64, 64)"),
        (TRAINING.format("h[:-1]"), "gives float32 (63, 64); it must give float32 (64, 64)"),
        (TRAINING.format("h[:, :-1]"), "gives float32 (64, 63)"),
        (TRAINING.format("h.double()"), "gives float64 (64, 64)"),
        (TRAINING.format("None"), "gives a NoneType"),
        (TRAINING.format("h / 0"), "gives NaN or infinity at the first batch"),
        (TRAINING.format("(h * 0).sqrt()"), "gives a gradient with NaN or infinity"),
        (TRAINING.format("h.missing"), "fails: 'Tensor' object has no attribute 'missing'"),
        (TRAINING.format("exit(3)"), "fails: SystemExit: 3"),
        (TRAINING.format("x.add_(1)"), "fails: a leaf Variable that requires grad"),
        ("        return x * 2", "gives no gradient to any of its parameters"),
        (
            "        h = self.linear(x) + getattr(self, 'last', 0)\n"
            "        self.last = h if self.training else 0\n        return h",
            "fails in its backward: Trying to backward through the graph a second time",
        ),
        (
            "        if self.training:\n            self.seen = torch.zeros(len(x))\n"
            "        return self.linear(x)",
            "changes names, shapes or dtypes of its parameters or buffers",
        ),
        (
            "        self.linear.bias.requires_grad_(False)\n        self.linear.bias.data += self.training\n"
            "        return self.linear(x)",
            "changes a parameter that has requires_grad=False, and no push would carry the change",
        ),
    ],
)
def test_a_unit_that_cannot_train_is_told_before_the_run(
    body: str, said: str, tmp_path: Path, digits: Dataset
) -> None:
    """Each used to be found by the slaves, one after the other, and tried six times."""
    config = own(tmp_path, body, "run.batch_size=64")
    for k in (None, 2):
        with pytest.raises(ConfigError) as caught:
            rehearse(config, digits, MOST, k=k)
        assert f"network.model: {tmp_path}/own.py:build: unit 2 (Own(" in str(caught.value)
        assert "run.batch_size = 64" in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    rehearse(config, digits, MOST, k=1)


def test_a_unit_that_skips_its_work_at_random_may_train(tmp_path: Path, digits: Dataset) -> None:
    body = "        return self.linear(x) if torch.rand(()) < 0.5 else x * 1"
    for seed in range(5):
        rehearse(own(tmp_path, body, f"run.seed={seed}"), digits, MOST)


def test_a_fixed_unit_without_gradient_may_stand_in_the_first_layer(tmp_path: Path, digits: Dataset) -> None:
    text = HEAD + "        with torch.no_grad():\n            return x.flatten(1)"
    text += "\ndef build(classes):\n    fixed = Own().requires_grad_(False)\n"
    text += "    return [fixed, nn.Linear(64, 64), nn.Linear(64, classes)]\n"
    (tmp_path / "own.py").write_text(text)
    config = load(None, [f"network.model={tmp_path}/own.py:build", "network.cuts=[2]"])
    rehearse(config, digits, MOST)
    later = load(None, [f"network.model={tmp_path}/own.py:build", "network.cuts=[1]"])
    rehearse(later, digits, MOST, k=1)


def test_a_first_unit_without_gradient_is_told(tmp_path: Path, digits: Dataset) -> None:
    text = HEAD + "        with torch.no_grad():\n            return self.linear(x.flatten(1))"
    text += "\ndef build(classes):\n    return [Own(), nn.Linear(64, classes)]\n"
    (tmp_path / "own.py").write_text(text)
    config = load(None, [f"network.model={tmp_path}/own.py:build", "network.cuts=[1]"])
    with pytest.raises(ConfigError, match=r"unit 1 .* gives no gradient to any of its parameters; .*no_grad"):
        rehearse(config, digits, MOST)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ([], 64 << 20),
        (["cluster.wire=bfloat16"], 32 << 20),
        (["decoupling.unlock=full"], 128 << 20),
        (["cluster.synthesis=master"], 128 << 20),
    ],
)
def test_a_batch_too_large_for_a_message_is_told(digits: Dataset, settings: list[str], most: int) -> None:
    """The sender of such a message used to fail six times. 1,024 examples of 16,384 numbers have 64 MiB."""
    fixed = ["network.options={widths=[16384]}", "network.cuts=[1]", "run.batch_size=1024"]
    config = load(None, [*fixed, *settings])
    blueprint = build(config, digits.inputs, digits.targets)
    check_messages(config, blueprint, most + (1 << 20))
    with pytest.raises(
        ConfigError, match=r"run.batch_size: 1024 examples .* after unit 1 of mlp .*give at most"
    ):
        check_messages(config, blueprint, most)


def test_nothing_outside_changes(tmp_path: Path, digits: Dataset) -> None:
    body = "        import random, numpy\n        random.random()\n        numpy.random.rand()\n" + GOOD
    config = own(tmp_path, body)
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    due = float(torch.rand(())), random.random(), np.random.rand()
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    rehearse(config, digits, MOST)
    assert (float(torch.rand(())), random.random(), np.random.rand()) == due


@pytest.mark.parametrize("model", list(MODELS.select(lambda row: not row.takes_tokens)))
def test_every_built_in_network_of_images_passes(model: str) -> None:
    x = np.random.default_rng(0).integers(0, 255, (300, 3, 32, 32), dtype=np.uint8)
    y = np.arange(300) % 10
    dataset = Dataset(
        "own", Arrays({PLAIN: x}, y), Arrays({PLAIN: x}, y), {PLAIN: Scaling((0.5,), (0.2,), 1 / 255)}, 10
    )
    config = load(None, [f"network.model={model}"])
    units = config.network.model_options().units
    rehearse(config.with_cuts(list(range(1, units))), dataset, MOST)


# Torch has no second derivative of cdist.
ONCE = """
import torch
def loss(output, target):
    wanted = torch.nn.functional.one_hot(target, 10).float()
    return torch.cdist(output[:, None], wanted[:, None], p=3.0).flatten()
"""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["decoupling.unlock=update"],
            r'as the loss of decoupling.gradient = "vfbn", which takes its second',
        ),
        (["decoupling.unlock=update", "decoupling.gradient=cdni"], None),
        (["decoupling.unlock=delayed"], None),
    ],
    ids=str,
)
def test_a_loss_without_a_second_derivative_is_refused_where_m_takes_it(
    tmp_path: Path, digits: Dataset, settings: list[str], told: str | None
) -> None:
    (tmp_path / "once.py").write_text(ONCE)
    config = load(
        None,
        [f"task.kind={tmp_path / 'once.py'}:loss", "network.cuts=[1, 2]", "run.batch_size=16", *settings],
    )
    if told is None:
        rehearse(config, digits, MOST)
    else:
        with pytest.raises(ConfigError, match=told):
            rehearse(config, digits, MOST)


@pytest.mark.parametrize("loss", ["output.sum(1) / 0", "(output * 0).sum(1).sqrt()"])
def test_a_loss_that_is_not_finite_is_named_and_not_the_unit(
    tmp_path: Path, digits: Dataset, loss: str
) -> None:
    (tmp_path / "lost.py").write_text(f"def loss(output, target):\n    return {loss}\n")
    spec = f"{tmp_path / 'lost.py'}:loss"
    config = load(None, [f"task.kind={spec}", "network.cuts=[1, 2]", "decoupling.unlock=none"])
    with pytest.raises(ConfigError, match="loss: gives a loss or a gradient with NaN or infinity") as caught:
        rehearse(config, digits, MOST)
    assert str(caught.value).startswith(f"task.kind: {spec}")


def test_a_unit_without_a_gradient_in_its_input_may_learn_from_the_networks_error(
    tmp_path: Path, digits: Dataset
) -> None:
    body = "        return self.linear(x.detach())"
    direct = ["decoupling.unlock=alignment", "decoupling.alignment=direct"]
    rehearse(own(tmp_path, body, *direct), digits, 4 << 20)
    with pytest.raises(ConfigError, match="passes no gradient back"):
        rehearse(own(tmp_path, body, direct[0]), digits, 4 << 20)


def test_feedback_alignment_refuses_a_network_with_matrices_that_it_does_not_know() -> None:
    keys = ["data.dataset=copy", "network.model=lstm", "network.cuts=[1]", "time.window=3"]
    config = load(None, [*keys, "decoupling.unlock=alignment"])
    with pytest.raises(ConfigError, match=r'"feedback" knows .* unit 2 .* of lstm has weight_ih_l0 of LSTM'):
        rehearse(config, datasets.of(config), 4 << 20)
