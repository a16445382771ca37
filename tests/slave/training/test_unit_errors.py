"""slave.training.unit_errors: an error in training names unit, layer, batch and the user's line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from common.config import files
from common.errors import RunFailedError
from common.models import network
from common.wire.messages import JoinReply
from slave.training import layers
from slave.training.worker import Worker
from tests.slave.chain import digits

NETWORK = """
from torch import nn


class Faulty(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 10)
        self.failing = False

    def forward(self, x):
        if self.training and self.failing:
            STATEMENT
        return self.linear(x)


def build():
    return [nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), Faulty()]
"""
BESIDE = """
import torch


def multiply(x):
    return x @ torch.ones(3, 3)
"""


def build_worker(folder: Path, statement: str) -> Worker:
    """One layer of all units, the last of which fails in training."""
    file = folder / "own.py"
    file.write_text(NETWORK.replace("STATEMENT", statement))
    if "beside" in statement:
        (folder / "beside_faulty.py").write_text(BESIDE)
    config = files.load(
        None, [f"network.model={file}:build", "network.cuts=[]", "run.batch_size=4", "decoupling.unlock=none"]
    )
    blueprint = network.build(config, digits().inputs, digits().targets)
    trained = layers.build(config, blueprint, digits(), JoinReply(layer=1), None)
    cast(Any, blueprint.units[-1]).failing = True
    return Worker(trained)


@pytest.mark.parametrize(
    ("statement", "error", "place"),
    [
        ("raise ValueError('boom')", "ValueError: boom", "own.py:13"),
        (
            "__import__('beside_faulty').multiply(x)",
            "RuntimeError: ",
            "beside_faulty.py:6",
        ),
        ("nn.functional.linear(x, x[:, :2])", "RuntimeError: ", "own.py:13"),
        ("raise SystemExit(0)", "SystemExit: 0", "own.py:13"),
    ],
)
def test_a_unit_that_raises_is_named_with_the_line_of_the_users_file(
    tmp_path: Path, statement: str, error: str, place: str
) -> None:
    worker = build_worker(tmp_path, statement)
    with pytest.raises(RunFailedError) as raised:
        list(worker.advance())
    said = str(raised.value)
    assert said.startswith("layer 1, batch ")
    assert "unit 4 (Faulty(" in said
    assert error in said
    assert f"({tmp_path}/{place})" in said
    assert said.endswith("correct the layer's units, or the data of this batch")


def test_an_error_outside_the_units_names_no_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = build_worker(tmp_path, "pass")

    def backward(*_: object, **__: object) -> None:
        raise RuntimeError("no gradient")

    monkeypatch.setattr(torch.autograd, "backward", backward)
    with pytest.raises(
        RunFailedError, match=r"^layer 1, batch \d: RuntimeError: no gradient \(.*.py:\d+\); correct"
    ):
        list(worker.advance())
