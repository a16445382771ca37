"""Results of runs and comparisons, read from their folders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config.sections import Config
from common.errors import ConfigError
from common.observe import measures
from deploy.runs.directory import saved_config
from deploy.runs.files import read_object
from deploy.runs.metrics import EVALUATION, HEARTBEAT, NOT_CURVES, read_metrics
from deploy.runs.summary import SUMMARY

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    Curves = dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]


@dataclass(frozen=True)
class Result:
    """Result of a finished run.

    Attributes:
        path: the run directory.
        summary: content of summary.json, such as `summary["metrics"]` and `summary["wall_seconds"]`.
    """

    path: Path
    summary: Mapping[str, Any] = field(repr=False)

    @cached_property
    def config(self) -> Config:
        """Configuration of the run, with the cuts that were found.

        Raises:
            ConfigError: the file is missing or torn.
        """
        return saved_config(self.path)

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """The task's metrics at the last evaluation by name, and the loss; None: not finite."""
        return measures.of(self.summary)

    @cached_property
    def curves(self) -> Curves:
        """Curves over the evaluations: arrays (evaluations,) of float64 by name.

        Names are `batches`, `seconds` (since the beginning), the task's metrics and `test_loss`; nan stands
        for a number that was not finite.
        """
        lines = [line for line in self._lines if line["kind"] == EVALUATION]
        values = [measures.of(line) for line in lines]
        names = list(measures.of(self.summary))
        return {
            **{name: _array([line[name] for line in lines]) for name in ("batches", "seconds")},
            **{name: _array([each.get(name) for each in values]) for name in names},
        }

    def telemetry(self, layer: int, replica: int = 0) -> Curves:
        """Curves over the heartbeats of a slave: arrays (heartbeats,) of float64 by name.

        Names are those of metrics.jsonl, such as `seconds`, `next_batch`, `loss`, `gradient_cosine`,
        `waiting_seconds` and `samples_per_second`.

        Args:
            layer: 1..K.
            replica: 0..R-1.

        Raises:
            ConfigError: the run has no heartbeats of such a slave, as with cluster.profile = "synchronous".
        """
        beats = [line for line in self._lines if line["kind"] == HEARTBEAT]
        mine = [beat for beat in beats if (beat["layer"], beat["replica"]) == (layer, replica)]
        if not mine:
            known = sorted({(beat["layer"], beat["replica"]) for beat in beats})
            raise ConfigError(
                f"{self.path}: has no heartbeats of layer {layer}, replica {replica}; "
                f"{f'has those of {known}' if known else 'a run in one process has none'}"
            )
        numbers = [name for name, value in mine[-1].items() if _is_number(value) and name not in NOT_CURVES]
        return {
            name: _array([beat.get(name) for beat in mine]) for name in ("seconds", "next_batch", *numbers)
        }

    def model(self, checkpoint: str | Path | None = None, code: str | Path | None = None) -> nn.Sequential:
        """Build the plain network with the weights of the run, in evaluation mode, without M and I.

        Inputs are normalized as docs/model.md says.

        Args:
            checkpoint: model file in place of the last model; with `run.keep_best` "best.safetensors", with
                `run.keep` "kept-BATCH.safetensors".
            code: folder of the user's file that has the network, if the file is no longer where the run
                found it.

        Raises:
            ConfigError: the model file is missing, torn or not the run's.
        """
        from deploy.evaluation.finished import build_network
        from deploy.runs.model import load_model

        model = load_model(self.path, None if checkpoint is None else Path(checkpoint))
        return build_network(model, self.config, None if code is None else Path(code))

    @cached_property
    def _lines(self) -> list[dict[str, Any]]:
        return read_metrics(self.path)


@dataclass(frozen=True)
class Compared:
    """Result of a comparison.

    Attributes:
        path: folder with compare.json, compare.html, plots and the runs' directories.
        content: content of compare.json.
    """

    path: Path
    content: Mapping[str, Any] = field(repr=False)

    @property
    def variants(self) -> dict[str, Mapping[str, Any]]:
        """Means and spreads over the seeds, by the variant's name."""
        return {variant["name"]: variant for variant in self.content["variants"]}

    def runs(self, name: str) -> list[Result]:
        """Return the results of a variant's runs, one for each seed.

        Raises:
            ConfigError: no variant has this name.
        """
        if name not in self.variants:
            raise ConfigError(f"{name}: is no variant of {self.path}; it has {', '.join(self.variants)}")
        variant = self.variants[name]
        return [
            Result(self.path / variant["folder"] / f"seed-{run['seed']}", run["summary"])
            for run in variant["runs"]
        ]


def load_result(path: Path) -> Result:
    """Load the result of a finished run.

    Raises:
        ConfigError: the folder holds no finished run.
    """
    return Result(path, read_object(path / SUMMARY, "give the directory of a finished run"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _array(values: Sequence[float | None]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    import numpy as np

    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
