"""A language model in step is a plain loop of back-propagation, and text is a task of its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.data import batches
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.models import network
from deploy.evaluation.evaluator import Evaluator
from deploy.simulation.synchronous import InStep
from tests.deploy.runs import loaded

LINES = ["the cat sat on the mat", "a dog ran to the cat", "the mat lay on the floor", "so the dog sat too"]


@pytest.fixture
def text(tmp_path: Path) -> list[str]:
    """Settings of a small run on a small text."""
    (tmp_path / "text.txt").write_text("\n".join(LINES * 40))
    return [
        "data.dataset=text", f"data.path={tmp_path}/text.txt", "data.tokens=characters", "data.context=16",
        "network.model=gpt", "network.options={width=16,heads=2,blocks=2}", "run.batch_size=8",
        "run.batches=80", "cluster.profile=synchronous", "optimizer.learning_rate=0.003",
    ]  # fmt: skip


def bits(module: nn.Module, dataset: Dataset) -> float:
    """Mean bits a token of the test set."""
    nats = count = 0.0
    with torch.no_grad():
        for x, y in batches.test_batches(dataset):
            nats += float(F.cross_entropy(module(x).flatten(0, 1), y.flatten(), reduction="sum"))
            count += y.numel()
    return nats / count / math.log(2)


@pytest.mark.parametrize(
    ("name", "optimizer"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)], ids=["adamw", "sgd"]
)
def test_in_step_without_unlock_a_gpt_learns_as_in_a_plain_loop(
    text: list[str], name: str, optimizer: type[torch.optim.Optimizer]
) -> None:
    rate = {"adamw": 0.003, "sgd": 0.1}[name]
    asked = ["decoupling.unlock=none", f"optimizer.name={name}", "network.cuts=[2]"]
    config, dataset = loaded(
        [*text, *asked, f"optimizer.learning_rate={rate}", "optimizer.weight_decay=0.01"]
    )
    run = InStep(config, dataset)
    for _ in run.run():
        pass
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    measured = evaluator.measure(evaluator.pull(run.pull))

    module = nn.Sequential(*network.build(config, dataset.inputs, dataset.targets).units).train()
    plain = optimizer(module.parameters(), lr=rate, weight_decay=0.01)  # type: ignore[call-arg]
    source = batches.Batches(dataset, config.run.seed, config.run.batch_size)
    for batch in range(config.run.batches):
        plain.zero_grad()
        logits = module(source.inputs(batch))
        loss = F.cross_entropy(logits.flatten(0, 1), source.labels(batch).flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        plain.step()
    expected = bits(module.eval(), dataset)
    assert measured.metrics["bits_per_token"] == pytest.approx(expected, rel=0.01)
    # Of 16 equally likely characters: 4 bits.
    assert expected < 3.9


def test_a_network_that_does_not_take_the_data_is_refused(text: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r'^network.model: mlp takes numbers, .*"text" are tokens; choose gpt'
    ):
        loaded([*text, "network.model=mlp", "network.options={}"])
    with pytest.raises(
        ConfigError, match=r'^network.model: gpt takes tokens, .*"digits" are numbers; choose mlp'
    ):
        loaded(["network.model=gpt"])
