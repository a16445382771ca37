"""best.safetensors: the network at the best evaluation of a run, with `run.keep_best`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.config.sections import Config
from common.data.datasets import Dataset
from common.observe import measures
from common.text import say
from common.wire.messages import Evaluation
from deploy.runs.files import write_file
from deploy.runs.model import encode_model, read_evaluation

if TYPE_CHECKING:
    from torch import Tensor


class BestModel:
    """The file, and the evaluation that it belongs to.

    Args:
        path: of the file, which an earlier part of the run may have written.

    Attributes:
        evaluation: the best one so far; None: none was finite.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.evaluation = read_evaluation(path)

    def note(
        self, state: Mapping[str, Tensor], evaluation: Evaluation, config: Config, data: Dataset
    ) -> None:
        """Write the network, if no evaluation has a better first metric, or as good a one and a lower loss.

        The run goes on where the file cannot be written.
        """
        best = (math.inf, math.inf) if self.evaluation is None else _measure(self.evaluation, config)
        if not _measure(evaluation, config) < best:
            return
        try:
            write_file(self._path, encode_model(state, config, data, evaluation))
        except OSError as error:
            say(f"{self._path}: {error.strerror}; the run goes on, and keeps the next better network")
            return
        self.evaluation = evaluation


def _measure(evaluation: Evaluation, config: Config) -> tuple[float, float]:
    """Return the cost of the run's first metric, and the loss."""
    metrics = evaluation.metrics
    name = next((name for name in config.metrics if name in metrics), None)
    first = evaluation.test_loss if name is None else measures.cost(name, metrics[name])
    return first, evaluation.test_loss
