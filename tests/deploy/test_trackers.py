"""Trackers are told the same as metrics.jsonl and get the result files; an absent package is said."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import layerwise
from common.config.sections import Config
from common.errors import ConfigError
from common.wire.messages import Evaluation, Seat, Telemetry
from deploy import cli as command
from deploy.runs import trackers
from deploy.runs.directory import RunDirectory
from deploy.runs.metrics import read_metrics
from deploy.runs.trackers import TRACKERS, Trackers, scalars
from tests.deploy.runs import STEP
from tests.integration.processes import until


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each test, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(name: str) -> dict[str, list[tuple[int, float]]]:
    """Train with a tracker; every scalar of metrics.jsonl by name, with the batches."""
    result = layerwise.train(run_dir="run", progress=False, track=[name], **STEP)
    told: dict[str, list[tuple[int, float]]] = {}
    for values, step in map(scalars, read_metrics(result.path)):
        for scalar, value in values.items():
            told.setdefault(scalar, []).append((step, value))
    assert [step for step, _ in told["test/error_percent"]] == [10, 20]
    assert "layer 2 replica 0/loss" in told
    return told


def test_tensorboard_has_the_scalars(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = trained("tensorboard")
    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    assert set(told) == set(events.Tags()["scalars"])
    for name in ("test/error_percent", "layer 2 replica 0/loss"):
        kept = [(each.step, each.value) for each in events.Scalars(name)]
        assert kept == [(step, pytest.approx(value)) for step, value in told[name]]
    assert "config.toml/text_summary" in events.Tags()["tensors"]


def test_mlflow_has_the_scalars_the_configuration_and_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told = trained("mlflow")
    client = MlflowClient(tracking_uri=(folder / "run" / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("layerwise").experiment_id])
    assert (run.info.status, run.data.params["run.batches"]) == ("FINISHED", "20")
    assert run.data.tags["torch"]
    for name in ("test/error_percent", "layer 2 replica 0/loss"):
        kept = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        assert kept == told[name]
    files = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert files == {"config.toml", "summary.json", "model.safetensors", "MODEL_CARD.md"}


def test_wandb_has_the_scalars_without_an_account(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    told = trained("wandb")
    (file,) = (folder / "run" / "wandb").glob("offline-run-*/*.wandb")
    # A process of W&B writes the file, and goes on for a moment after the run's end.
    due = [text.encode() for text in (*told, "model.safetensors", "facts")]
    assert until(lambda: all(text in file.read_bytes() for text in due), 30)


@pytest.mark.parametrize("name", TRACKERS)
def test_without_the_package_it_is_said_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=rf"--track {name}: .* pip install 'layerwise\[{name}\]'"):
        RunDirectory(Path("run"), track=[name])
    assert not Path("run").exists()


def test_an_unknown_tracker_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert command.run(["train", "--track", "aim"]) == 2
    assert "--track aim: is not one of tensorboard, wandb, mlflow" in capfd.readouterr().err


class Recording:
    """A tracker that keeps what it hears, and fails when it is told to."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.fails = False

    def note(self, values: Mapping[str, float], step: int) -> None:
        if self.fails:
            raise RuntimeError("the service is gone")
        self.heard.append((dict(values), step))

    def finish(self, files: Iterable[Path]) -> None:
        self.heard.append([file.name for file in files])

    def close(self) -> None:
        self.heard.append("closed")


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    """The tracker that stands in for TensorBoard."""
    tracker = Recording()

    class Module:
        @staticmethod
        def begin(folder: Path, config: Config, facts: Mapping[str, str]) -> Recording:
            if config.run.name == "refused":
                raise RuntimeError("no account")
            return tracker

    monkeypatch.setattr(trackers, "import_implementation", lambda package, name: Module)
    return tracker


def test_heartbeats_have_names_of_their_slave(recording: Recording) -> None:
    directory = RunDirectory(Path("run"), track=["tensorboard"])
    directory.begin(Config())
    directory.note_evaluation(Evaluation(200, 3.5, 0.25, metrics={"error_percent": 3.5}), 1.0)
    seat = Seat(2, 1, incarnation=4, beat=1, telemetry=Telemetry(next_batch=77, loss=0.5))
    directory.note_heartbeats([seat], 2.0)
    directory.close()
    (evaluation, at), (beat, batch), closed = recording.heard
    assert (evaluation, at) == ({"test/error_percent": 3.5, "test/loss": 0.25}, 200)
    assert (beat["layer 2 replica 1/loss"], batch, closed) == (0.5, 77, "closed")
    assert not any("incarnation" in name for name in beat)


def test_a_tracker_that_fails_is_reported_once_and_the_run_goes_on(
    recording: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = Trackers(["tensorboard"], Path())
    tracking.begin(Config())
    recording.fails = True
    line = {"kind": "evaluation", "batches": 1, "metrics": {}, "test_loss": 1.0}
    tracking.note(line)
    tracking.note(line)
    said = "--track tensorboard: RuntimeError: the service is gone; the run goes on without it\n"
    assert capsys.readouterr().err == said


def test_a_tracker_that_cannot_begin_ends_the_run_before_its_start(recording: Recording) -> None:
    with pytest.raises(ConfigError, match="--track tensorboard: cannot begin: RuntimeError: no account; see"):
        layerwise.train(run_dir="run", track=["tensorboard"], **(STEP | {"run.name": "refused"}))
    # The folder is free for the next attempt, which the tracker hears to the end.
    (Path("run") / "config.toml").unlink()
    layerwise.train(run_dir="run", progress=False, track=["tensorboard"], **STEP)
    files, closed = recording.heard[-2:]
    assert (files, closed) == (
        ["config.toml", "summary.json", "model.safetensors", "MODEL_CARD.md"],
        "closed",
    )
    assert json.loads((Path("run") / "summary.json").read_text())["batches"] == 20
