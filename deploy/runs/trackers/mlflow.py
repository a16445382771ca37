"""MLflow: a run of experiment `layerwise`, at MLFLOW_TRACKING_URI or in the run directory."""

from __future__ import annotations

import math
import operator
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from common.config import settings
from common.config.sections import Config

EXPERIMENT = "layerwise"
FOLDER = "mlflow"
# Limits of MLflow: parameters of a call, characters of a value.
MOST_PARAMETERS, MOST_CHARACTERS = 100, 500


class MlflowRun:
    """A run, by a client of its own: the user's active run stays as it is."""

    def __init__(self, client: Any, number: str) -> None:
        self._client, self._number, self._finished = client, number, False

    def note(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars; numbers that are not finite are left out."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items() if math.isfinite(value)]
        self._client.log_batch(self._number, metrics=metrics)

    def finish(self, files: Iterable[Path]) -> None:
        """Log the files as artefacts."""
        for file in files:
            self._client.log_artifact(self._number, str(file))
        self._finished = True

    def close(self) -> None:
        """End the run; one that is not finished counts as killed."""
        self._client.set_terminated(self._number, "FINISHED" if self._finished else "KILLED")


def begin(folder: Path, config: Config, facts: Mapping[str, str]) -> MlflowRun:
    """Begin a run."""
    place = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder / FOLDER).absolute().as_uri()
    if place is not None:
        # MLflow asks for this word before it writes files without a database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=place)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    number = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    tags = {**facts, "run_dir": str(folder.absolute())}
    run = client.create_run(number, tags=tags, run_name=config.run.name)
    parameters = [
        Param(name, str(operator.attrgetter(name)(config))[:MOST_CHARACTERS])
        for name in settings.keys(Config)
    ]
    for start in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(run.info.run_id, params=parameters[start : start + MOST_PARAMETERS])
    return MlflowRun(client, run.info.run_id)
