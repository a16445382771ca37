"""Network of a finished run, from the files of the run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.config.sections import Config
from common.data import datasets
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.models import network
from common.models.threads import use_allowed_cores
from deploy.evaluation.evaluator import Evaluator
from deploy.runs.directory import saved_config
from deploy.runs.model import MODEL, load_model


@dataclass(frozen=True)
class FinishedRun:
    """Configuration, data and state of a finished run; the evaluator does not have the state yet."""

    config: Config
    dataset: Dataset
    evaluator: Evaluator
    state: dict[str, Tensor]


def load_finished(path: Path, data: Path | None, code: Path | None) -> FinishedRun:
    """Load a run directory.

    Args:
        path: the run directory.
        data: folder that replaces `data.path`.
        code: folder of the user's files.

    Raises:
        ConfigError: the directory has no model, the model is damaged or not the run's, or the data is
            missing.
    """
    state, config = load_model(path), saved_config(path)
    dataset = datasets.load(config.data, path=data, code=code)
    evaluator = build_evaluator(config, dataset, code)
    misfit = evaluator.find_misfit(state)
    if misfit:
        raise ConfigError(
            f"{path / MODEL}: does not fit the run's config.toml: {misfit}; copy both files again"
        )
    return FinishedRun(config, dataset, evaluator, state)


def build_evaluator(config: Config, dataset: Dataset, code: Path | None) -> Evaluator:
    """Build the evaluator of a run."""
    use_allowed_cores()
    return Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets, code))
