"""Evaluations: a master that is away during a report, and test sets without a target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from common.config import files
from common.config.sections import Config
from common.data import datasets
from common.errors import ConfigError, UnprovenError
from common.models import network
from common.wire.messages import Evaluation, StatusReply
from deploy.evaluation.evaluate import _measure
from deploy.evaluation.evaluator import Evaluator, PulledNetwork
from deploy.evaluation.reader import Reader, latest_status
from deploy.runs.directory import RunDirectory
from deploy.screen import Screen
from tests.master.served import served


class Measuring:
    """An evaluator of a model that is always as good."""

    def measure(self, pulled: PulledNetwork) -> Evaluation:
        return Evaluation(pulled.batches, 2.5)


def test_an_evaluator_goes_on_when_the_master_is_away_during_its_report(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    evaluator = cast(Evaluator, Measuring())
    with Reader("127.0.0.1:42923") as nobody:
        found = _measure(evaluator, PulledNetwork({}, {}, 7), nobody, directory, Screen(Config()), 0.0)
        assert latest_status(nobody, StatusReply(batches=7)).batches == 7
    assert found.batches == 7
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["test_error_percent"] == 2.5


def test_a_test_set_of_targets_that_are_left_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "from torch import nn\n"
        "def load():\n"
        "    x = np.zeros((4, 3), np.int64)\n"
        "    return x, x, x, np.full((4, 3), -100)\n"
        "def build():\n"
        "    return [nn.Embedding(1, 2), nn.Linear(2, 1)]\n"
    )
    keys = [f"data.dataset={tmp_path}/own.py:load", f"network.model={tmp_path}/own.py:build"]
    config = files.load(None, [*keys, "task.kind=language", "run.batch_size=2"])
    dataset = datasets.load(config.data)
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    with pytest.raises(ConfigError, match="the test set has no target that counts"):
        evaluator.measure_state(evaluator.network.state_dict(), {}, 0)


def test_an_evaluator_without_the_operators_token_is_told_the_option(tmp_path: Path) -> None:
    with served(tmp_path) as master:
        (tmp_path / "wrong").write_text("0" * 32)
        with (
            Reader(master.address, tmp_path / "wrong") as reader,
            pytest.raises(
                UnprovenError, match=r"Keeper\.Snapshot needs the operator's token; .* --token-file"
            ),
        ):
            reader.snapshot()
        with Reader(master.address) as reader:
            assert reader.snapshot().number == 1
