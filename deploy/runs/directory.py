"""A run directory: the files of a run, under stable names."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import files
from common.config.sections import Config
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.observe.percentiles import percentiles
from common.wire.messages import Evaluation, Seat, StatusReply

if TYPE_CHECKING:
    from torch import Tensor

    from deploy.runs.tensorboard import Board

CONFIG, SUMMARY, METRICS, MODEL = "config.toml", "summary.json", "metrics.jsonl", "model.safetensors"
TENSORBOARD = "tensorboard"


def next_evaluation(batches: int, every: int) -> int:
    """Return the number of batches at which the next evaluation is due, once `batches` are trained."""
    return batches - batches % every + every


def new_directory(name: str) -> Path:
    """Choose a new path under runs/."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path("runs") / stem, 2
    while path.exists():
        path, number = Path("runs") / f"{stem}-{number}", number + 1
    return path


class RunDirectory:
    """The files of a run.

    Raises:
        ConfigError: the directory cannot be used, or its run is finished.
    """

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        self.path = path
        self._beats: dict[int, int] = {}
        if (path / SUMMARY).exists():
            raise ConfigError(
                f"--run-dir {path}: its run is finished (see {SUMMARY} in it); give another directory, or "
                "none for a new one"
            )
        try:
            (path / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--run-dir {path}: cannot be created: {error.strerror}; give another directory"
            ) from None
        self._board = _board(path / TENSORBOARD) if tensorboard else None

    @property
    def state(self) -> Path:
        """Path of the master's state directory."""
        return self.path / "state"

    def log(self, process: str) -> Path:
        """Path of a process' log."""
        return self.path / "logs" / f"{process}.log"

    def saved_config(self) -> Config | None:
        """Read the configuration of the run that began in this directory; None if no run did."""
        path = self.path / CONFIG
        return files.parse(path.read_text(encoding="utf-8"), str(path)) if path.exists() else None

    def begin(self, config: Config) -> None:
        """Save the resolved configuration of the run."""
        (self.path / CONFIG).write_text(config.to_toml(), encoding="utf-8")

    def forget_metrics(self) -> None:
        """Delete metrics.jsonl, for a run that starts anew."""
        (self.path / METRICS).unlink(missing_ok=True)

    def note_evaluation(self, evaluation: Evaluation, seconds: float) -> None:
        """Write a line for an evaluation, with the seconds since the run began."""
        self._note({"kind": "evaluation", "seconds": round(seconds, 3), **dataclasses.asdict(evaluation)})

    def note_heartbeats(self, seats: Iterable[Seat], seconds: float) -> None:
        """Write a line for every new heartbeat."""
        for seat in seats:
            if seat.incarnation and self._beats.get(seat.incarnation) != seat.beat:
                self._beats[seat.incarnation] = seat.beat
                self._note_heartbeat(seat, seconds)

    def _note_heartbeat(self, seat: Seat, seconds: float) -> None:
        flat = dataclasses.asdict(seat)
        telemetry = flat.pop("telemetry")
        utilization = telemetry.pop("utilization")
        self._note({"kind": "heartbeat", "seconds": round(seconds, 3), **flat, **telemetry, **utilization})

    def evaluations(self) -> list[dict[str, Any]]:
        """List every recorded evaluation."""
        return [line for line in self.metrics() if line["kind"] == "evaluation"]

    def metrics(self) -> list[dict[str, Any]]:
        """List every line of metrics.jsonl."""
        return metrics_of(self.path)

    def finish(
        self, summary: Mapping[str, Any], state: Mapping[str, Tensor], config: Config, data: Dataset
    ) -> None:
        """Write the model, the plots and, last, the summary, whose presence marks the run as finished."""
        from deploy.runs.plots import draw

        save_model(self.path / MODEL, state, config, data)
        draw(self.path / "plots", self.metrics(), summary)
        if self._board:
            self._board.close()
        fresh = self.path / f".{SUMMARY}.new"
        fresh.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        fresh.replace(self.path / SUMMARY)

    def _note(self, line: Mapping[str, Any]) -> None:
        if self._board:
            self._board.note(line)
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _board(path: Path) -> Board:
    try:
        from deploy.runs.tensorboard import Board
    except ImportError:
        raise ConfigError(
            "--tensorboard: the package is not installed; pip install 'layerwise[tensorboard]'"
        ) from None
    return Board(path)


def metrics_of(path: Path) -> list[dict[str, Any]]:
    """Read every line of a run directory's metrics.jsonl, without a torn last line."""
    path = path / METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def save_model(path: Path, state: Mapping[str, Tensor], config: Config, data: Dataset) -> None:
    """Write a plain state dict as safetensors, with the configuration and the input's scaling as metadata."""
    from safetensors.torch import save_file

    metadata = {
        "config": config.to_toml(),
        "inputs": json.dumps(
            {"shape": data.input_shape, "scale": data.scale, "mean": data.mean, "std": data.std}
        ),
        "format": "pt",
    }
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)


def summarize(
    config: Config, status: StatusReply, evaluation: Evaluation, seconds: float, restarts: int
) -> dict[str, Any]:
    """Build the summary of a run, the content of summary.json.

    Args:
        config: the run's configuration.
        status: the master's last status.
        evaluation: the last evaluation.
        seconds: time from the command's start to the end of the run.
        restarts: number of restarted processes.
    """
    training = status.training_seconds or seconds
    seats = status.seats
    return {
        "name": config.run.name,
        "dataset": config.data.dataset,
        "model": config.network.model,
        "profile": config.cluster.profile,
        "synthesis": config.cluster.synthesis,
        "unlock": config.decoupling.unlock,
        "gradient": config.decoupling.gradient if config.decoupling.row.synthesizes else None,
        "input": config.decoupling.input if config.decoupling.row.predicts else None,
        "layers": config.layers,
        "slaves": len(seats),
        "batches": config.run.batches,
        "batch_size": config.run.batch_size,
        "wall_seconds": round(seconds, 3),
        "samples_per_second": round(config.run.batches * config.run.batch_size / training, 1),
        "test_error_percent": evaluation.test_error_percent,
        "test_loss": evaluation.test_loss,
        "staleness": percentiles(status.counters.staleness),
        "delay": percentiles(status.delays),
        "pushes": status.counters.pushes,
        "pulls": status.counters.pulls,
        # Without `k/optimizer`: backups of the optimizers' state are not a result.
        "versions": {name: at for name, at in status.versions.items() if not name.endswith("/optimizer")},
        "restarts": restarts,
        "lost_batches": status.lost_batches,
        "peak_rss_bytes": {
            "master": status.counters.peak_rss_bytes,
            "slaves": [seat.telemetry.peak_rss_bytes for seat in seats],
        },
        "cpu_seconds": {
            "master": round(status.counters.cpu_seconds, 3),
            "slaves": [round(seat.telemetry.cpu_seconds, 3) for seat in seats],
        },
        "waiting_fraction": {str(k): round(part, 5) for k, part in sorted(status.waiting_fraction.items())},
    }
