"""Weights & Biases: a run of project `layerwise`; its files lie in the run directory."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import wandb

from common.config.sections import Config

PROJECT = "layerwise"
BATCH = "batch"


class WandbRun:
    """A run, whose curves have the batch as their axis."""

    def __init__(self, run: Any) -> None:
        self._run, self._finished = run, False
        run.define_metric(BATCH)
        run.define_metric("*", step_metric=BATCH)

    def note(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars."""
        self._run.log({**values, BATCH: step})

    def finish(self, files: Iterable[Path]) -> None:
        """Log the files as an artefact of type model."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self._run.name or PROJECT)
        artifact = wandb.Artifact(name, type="model")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)
        self._finished = True

    def close(self) -> None:
        """Finish the run; one that is not finished counts as failed."""
        self._run.finish(exit_code=0 if self._finished else 1)


def begin(folder: Path, config: Config, facts: Mapping[str, str]) -> WandbRun:
    """Begin a run."""
    settings = {**tomllib.loads(config.to_toml()), "facts": dict(facts)}
    run = wandb.init(
        project=PROJECT,
        name=config.run.name,
        dir=str(folder),
        config=settings,
        settings=wandb.Settings(silent=True, console="off"),
    )
    return WandbRun(run)
