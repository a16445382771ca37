"""Trackers of experiments, `train --track NAME`: the scalars of metrics.jsonl, and the result files."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from common.config.sections import Config
from common.config.user_code import format_error
from common.errors import ConfigError
from common.registry import Registry, Row, import_implementation
from common.text import advise_install, say
from common.versions import installed_versions
from deploy.runs.metrics import EVALUATION, NOT_CURVES


@dataclass(frozen=True, kw_only=True)
class TrackerRow(Row):
    """A tracker, whose package the extra of the same name installs.

    Attributes:
        package: module that must be installed.
        advice: remedy where the tracker cannot begin.
    """

    package: str
    advice: str


TRACKERS = Registry(
    TrackerRow(
        name="tensorboard",
        help="event files in the run directory",
        package="tensorboard",
        advice="see to the run directory",
    ),
    TrackerRow(
        name="wandb",
        help="Weights & Biases; WANDB_MODE=offline needs no account",
        package="wandb",
        advice="run `wandb login`, or set WANDB_MODE=offline",
    ),
    TrackerRow(
        name="mlflow",
        help="MLflow: at MLFLOW_TRACKING_URI, else in the run directory",
        package="mlflow",
        advice="see to MLFLOW_TRACKING_URI",
    ),
)


class Tracker(Protocol):
    """A run as a tracker keeps it."""

    def note(self, values: Mapping[str, float], step: int) -> None:
        """Add scalars by name; a step is a batch."""

    def finish(self, files: Iterable[Path]) -> None:
        """Add the files of the result; the run is finished."""

    def close(self) -> None:
        """Write everything; the run is over, finished or not."""


class Trackers:
    """The trackers of a run. The run goes on without a tracker that fails on the way.

    Args:
        names: of the rows.
        folder: the run directory.

    Raises:
        ConfigError: a tracker is not known, or not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        for name in names:
            if name not in TRACKERS:
                raise ConfigError(f"--track {name}: is not one of {', '.join(TRACKERS)}")
            if importlib.util.find_spec(TRACKERS[name].package) is None:
                raise ConfigError(f"--track {name}: the package is not installed; {advise_install(name)}")
        self._names, self._folder = tuple(dict.fromkeys(names)), folder
        self._trackers: dict[str, Tracker] = {}

    def begin(self, config: Config) -> None:
        """Begin a run at every tracker.

        Raises:
            ConfigError: a tracker cannot begin.
        """
        for name in self._names:
            module = import_implementation(__name__, name)
            try:
                self._trackers[name] = module.begin(self._folder, config, find_facts())
            except Exception as error:
                raise ConfigError(
                    f"--track {name}: cannot begin: {format_error(error)}; {TRACKERS[name].advice}"
                ) from error

    def note(self, line: Mapping[str, Any]) -> None:
        """Add the scalars of a line of metrics.jsonl."""
        values, step = scalars(line)
        self._each(lambda tracker: tracker.note(values, step))

    def finish(self, files: Iterable[Path]) -> None:
        """Add the result files that exist, and end the run."""
        existing = [file for file in files if file.exists()]
        self._each(lambda tracker: tracker.finish(existing))
        self.close()

    def close(self) -> None:
        """End the run, finished or not; repeated calls are harmless."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:
                del self._trackers[name]
                say(f"--track {name}: {format_error(error)}; the run goes on without it")


def scalars(line: Mapping[str, Any]) -> tuple[dict[str, float], int]:
    """Return the scalars of a line of metrics.jsonl by name, such as "layer 1 replica 0/loss", and the batch.

    The batch is the evaluation's, or the slave's at a heartbeat.
    """
    if line["kind"] == EVALUATION:
        group, step = "test", line["batches"]
        values = {**line["metrics"], "loss": line["test_loss"]}
    else:
        group, step = f"layer {line['layer']} replica {line['replica']}", line["next_batch"]
        values = {name: value for name, value in line.items() if name not in NOT_CURVES}
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {f"{group}/{name}": value for name, value in numbers.items()}, step


def find_facts() -> dict[str, str]:
    """Return the versions, and the commit of the working directory where git tells one."""
    facts = installed_versions()
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - the user's git
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return facts
    return {**facts, "commit": found.stdout.strip()}
