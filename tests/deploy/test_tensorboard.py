"""TensorBoard is told the same as metrics.jsonl, and its absence is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.wire.messages import Evaluation, Seat, Telemetry
from deploy.runs.directory import RunDirectory


def test_scalars_are_those_of_the_metrics_file(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    directory = RunDirectory(tmp_path, tensorboard=True)
    directory.note_evaluation(Evaluation(200, 3.5, 0.25, metrics={"error_percent": 3.5}), 1.0)
    seat = Seat(2, 1, incarnation=4, beat=1, telemetry=Telemetry(next_batch=77, loss=0.5))
    directory.note_heartbeats([seat], 2.0)
    assert directory._board is not None
    directory._board.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (error,) = events.Scalars("test/error_percent")
    assert (error.step, error.value) == (200, 3.5)
    (loss,) = events.Scalars("layer 2 replica 1/loss")
    assert (loss.step, loss.value) == (77, 0.5)


def test_without_the_package_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deploy.runs.tensorboard", None)
    with pytest.raises(ConfigError, match=r"layerwise\[tensorboard\]"):
        RunDirectory(tmp_path, tensorboard=True)
