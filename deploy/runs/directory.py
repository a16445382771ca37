"""A run directory: the files of a run, under stable names."""

from __future__ import annotations

import dataclasses
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from common import strict_json
from common.config import files
from common.config.sections import Config
from common.data.datasets import Dataset
from common.errors import ConfigError, RunFailedError
from common.text import say
from common.wire.messages import Evaluation, Seat
from deploy.runs.best import BestModel
from deploy.runs.card import CARD, render_card
from deploy.runs.files import lock_folder, read_text, write_file
from deploy.runs.kept import KeptModels, Network, find_kept
from deploy.runs.metrics import EVALUATION, HEARTBEAT, METRICS, MetricsFile, read_metrics
from deploy.runs.model import BEST, MODEL, encode_model
from deploy.runs.summary import SUMMARY
from deploy.runs.trackers import Trackers

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, PLOTS = "config.toml", "plots"
# Files that trackers keep with a finished run.
RESULTS = (CONFIG, SUMMARY, MODEL, BEST, CARD)


def next_evaluation(batches: int, config: Config) -> int:
    """Return the number of batches at which the next evaluation is due, once `batches` are trained."""
    every = config.run.evaluate_every
    return min([batches - batches % every + every, *(b for b in config.run.keep if b > batches)])


def new_directory(name: str) -> Path:
    """Create a new folder under runs/."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path("runs") / stem, 2
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            path, number = Path("runs") / f"{stem}-{number}", number + 1
        else:
            return path


def saved_config(folder: Path) -> Config:
    """Read the configuration that a run saved in its directory.

    Raises:
        ConfigError: the file is missing, torn, or holds something else.
    """
    path = folder / CONFIG
    advice = "give the directory of a run, or restore the file from a copy"
    text = read_text(path, advice)
    config = files.parse(text, str(path))
    # A file that was cut at the end of a line is TOML too, and its lost keys would take their defaults.
    lacking = [name for name in tomllib.loads(Config().to_toml()) if f"[{name}]\n" not in text]
    if lacking or not text.endswith("\n"):
        raise ConfigError(f"{path}: is torn: lacks {', '.join(lacking) or 'the end'}; {advice}")
    return config


class RunDirectory:
    """The files of a run, locked against other commands until the process ends.

    Raises:
        ConfigError: the run in the directory is finished.
        RefusedError: another command is writing into the directory.
        OSError: the directory cannot be used.
    """

    def __init__(self, path: Path, *, track: Sequence[str] = ()) -> None:
        self.path = path
        self._beats: dict[int, int] = {}
        if (path / SUMMARY).exists():
            raise ConfigError(
                f"--run-dir {path}: its run is finished (see {SUMMARY} in it); give another directory, or "
                "none for a new one"
            )
        self._trackers = Trackers(track, path)
        path.mkdir(parents=True, exist_ok=True)
        (path / "logs").mkdir(exist_ok=True)
        self._lock: IO[bytes] = lock_folder(path, "--run-dir")
        self._metrics = MetricsFile(path / METRICS)
        self._best = BestModel(path / BEST)
        self._kept = KeptModels(path)

    @property
    def state(self) -> Path:
        """Path of the master's state directory."""
        return self.path / "state"

    def close(self) -> None:
        """Unlock the directory, as the end of the process does too, and end the run at its trackers."""
        self._trackers.close()
        self._lock.close()

    def log(self, process: str) -> Path:
        """Path of a process' log."""
        return self.path / "logs" / f"{process}.log"

    def saved_config(self) -> Config | None:
        """Read the configuration of the run that began in this directory; None if no run did."""
        return saved_config(self.path) if (self.path / CONFIG).exists() else None

    def begin(self, config: Config) -> None:
        """Save the resolved configuration of the run, and cut a torn line off an earlier part's metrics."""
        write_file(self.path / CONFIG, config.to_toml().encode())
        torn = self._metrics.cut_torn_line()
        if torn:
            say(f"{self._metrics.path}: its last line was torn; {torn} bytes are cut off")
        self._trackers.begin(config)

    def forget_results(self) -> None:
        """Delete metrics, kept models and the best, for a run that starts anew."""
        self._metrics.path.unlink(missing_ok=True)
        self._kept.forget()
        (self.path / BEST).unlink(missing_ok=True)
        self._best = BestModel(self.path / BEST)

    @property
    def best(self) -> Evaluation | None:
        """The evaluation of the best model that is kept; None: none is."""
        return self._best.evaluation

    def keep(
        self, network: Network, evaluation: Evaluation, config: Config, data: Dataset, through: int
    ) -> None:
        """Keep the network of an evaluation, if it is the best or due, and the run asks for that.

        Args:
            network: as measured.
            evaluation: of the network.
            config: of the run.
            data: of the run.
            through: batches that the run had done when the evaluation was due.
        """
        self._kept.note(network, evaluation, config, data, through)
        if config.run.keep_best:
            self._best.note(network.state, evaluation, config, data)

    def note_evaluation(self, evaluation: Evaluation, seconds: float) -> None:
        """Write a line for an evaluation, with the seconds since the run began."""
        self._note({"kind": EVALUATION, "seconds": round(seconds, 3), **dataclasses.asdict(evaluation)})

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
        self._note({"kind": HEARTBEAT, "seconds": round(seconds, 3), **flat, **telemetry, **utilization})

    def finish(
        self, summary: Mapping[str, Any], state: Mapping[str, Tensor], config: Config, data: Dataset
    ) -> RunFailedError | None:
        """Write the model, the plots and, last, the summary, whose presence marks the run as finished.

        Returns:
            None, or the error that names the files that cannot be written; the summary is then not written.
        """
        from deploy.runs.plots import draw

        text = strict_json.encode(summary, indent=2) + "\n"
        last = Evaluation(config.run.batches, test_loss=summary["test_loss"], metrics=summary["metrics"])
        incomplete = self._write_all(
            {
                METRICS: self._metrics.flush,
                MODEL: lambda: write_file(self.path / MODEL, encode_model(state, config, data, last)),
                CARD: lambda: write_file(
                    self.path / CARD, render_card(summary, state, config, data).encode()
                ),
                PLOTS: lambda: draw(self.path / PLOTS, read_metrics(self.path), summary),
            }
        ) or self._write_all({SUMMARY: lambda: write_file(self.path / SUMMARY, text.encode())})
        if incomplete is None:
            kept = [name for each in find_kept(self.path) for name in (each.model, each.gradients)]
            self._trackers.finish(self.path / name for name in (*RESULTS, *kept))
        return incomplete

    def _write_all(self, writes: Mapping[str, Callable[[], None]]) -> RunFailedError | None:
        missing = []
        for name, write in writes.items():
            try:
                write()
            except OSError as error:
                missing.append(f"{name} ({error.strerror})")
        if not missing:
            return None
        return RunFailedError(
            f"{self.path}: the run is trained, but could not write {', '.join(missing)}; free disk "
            "space, and give the same --run-dir again"
        )

    def _note(self, line: Mapping[str, Any]) -> None:
        self._metrics.append(line)
        self._trackers.note(line)
