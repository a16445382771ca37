"""A master that is away during a report is told of the next one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from common.config.sections import Config
from common.wire.messages import Evaluation, StatusReply
from deploy.evaluation.evaluate import _measure
from deploy.evaluation.evaluator import Evaluator, PulledNetwork
from deploy.evaluation.reader import Reader, latest_status
from deploy.runs.directory import RunDirectory
from deploy.screen import Screen


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
