"""The directory of a finished run, without a run."""

from __future__ import annotations

from pathlib import Path

from common.models import network
from common.wire.messages import Evaluation
from deploy.evaluation.evaluator import Evaluator
from deploy.runs.directory import RunDirectory
from tests.deploy.runs import digits, resolved


def write_run(path: Path) -> Path:
    """Write the results of a run that has learned nothing, and return the path."""
    config = resolved("network.options.widths=[8]")
    evaluator = Evaluator(config, digits(), network.build(config, digits().inputs, digits().targets))
    directory = RunDirectory(path)
    directory.begin(config)
    directory.note_evaluation(Evaluation(40, 90.0, metrics={"error_percent": 90.0}), 1.0)
    summary = {
        "name": "n",
        "dataset": "digits",
        "unlock": "none",
        "metrics": {"error_percent": 90.0},
        "test_loss": 2.3,
    }
    directory.finish(summary, evaluator.network.state_dict(), config, digits())
    directory.close()
    return path
