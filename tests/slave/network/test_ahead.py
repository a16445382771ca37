"""slave.network.ahead: a waiting slave does what a lease on any layer takes."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from common.config.files import load
from common.errors import ConfigError
from slave.network.ahead import Ahead
from slave.network.options import Options
from slave.network.prepared import Prepared

# Units that note their forwards, and one that fails where it is asked to.
NETWORK = """
import os
from torch import nn
FOLDER = {folder!r}
def note(what):
    with open(f"{{FOLDER}}/notes", "a") as file:
        file.write(what + "\\n")
class Noting(nn.Linear):
    def __init__(self, number, inputs, outputs):
        super().__init__(inputs, outputs)
        self.number = number
    def forward(self, x):
        note(f"unit {{self.number}}")
        if self.training and self.number == 2 and os.path.exists(FOLDER + "/fails"):
            raise OSError("no room")
        return super().forward(x.flatten(1))
def build(input_shape, classes):
    note("build")
    return [Noting(1, 64, 8), Noting(2, 8, 8), Noting(3, 8, classes)]
"""


def prepare(folder: Path, *settings: str) -> Prepared:
    (folder / "network.py").write_text(NETWORK.format(folder=str(folder)))
    model = f"network.model={folder / 'network.py'}:build"
    config = load(None, [model, "network.cuts=[1, 2]", "run.batch_size=8", *settings])
    return Prepared.prepare(config, Options("", "cpu"))


def notes(folder: Path) -> Counter[str]:
    path = folder / "notes"
    found = Counter(path.read_text().splitlines()) if path.exists() else Counter[str]()
    path.unlink(missing_ok=True)
    return found


def work(ahead: Ahead) -> None:
    """Have the thread do everything, as in a long wait."""
    ahead.start()
    assert ahead._thread is not None
    ahead._thread.join()


def test_after_a_wait_a_lease_finds_the_network_built_and_every_unit_rehearsed(tmp_path: Path) -> None:
    ahead = prepare(tmp_path).ahead
    work(ahead)
    found = notes(tmp_path)
    assert all(found[each] for each in ("build", "unit 1", "unit 2", "unit 3"))
    blueprint = ahead.take(2)
    assert notes(tmp_path) == {}
    # As without a wait: initial weights, that neither the rehearsal nor the composition has changed.
    for kept, fresh in zip(blueprint.units, ahead.build().units, strict=True):
        torch.testing.assert_close(kept.state_dict(), fresh.state_dict())
        assert all(each.grad is None for each in kept.parameters())


def test_without_a_wait_a_lease_rehearses_its_own_layer_alone(tmp_path: Path) -> None:
    ahead = prepare(tmp_path).ahead
    ahead.take(1)
    # Units of other layers are looked at once for the forms, at each building.
    found = notes(tmp_path)
    assert found["unit 3"] == found["build"] < found["unit 1"]


def test_a_second_wait_builds_anew_and_rehearses_no_more(tmp_path: Path) -> None:
    ahead = prepare(tmp_path).ahead
    work(ahead)
    first = ahead.take(1)
    notes(tmp_path)
    work(ahead)
    again = notes(tmp_path)
    assert again["build"] == 1
    assert again["unit 1"] == again["unit 3"] == 1
    assert ahead.take(1).units[0] is not first.units[0]


def test_a_network_that_fails_here_is_told_at_the_lease_on_a_layer_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = prepare(tmp_path).ahead
    (tmp_path / "fails").touch()
    with caplog.at_level(logging.WARNING):
        work(ahead)
    assert "unit 2 (Noting" in caplog.text
    assert len(ahead.take(1).units) == 3
    with pytest.raises(ConfigError, match="no room"):
        ahead.take(2)


def test_a_lease_does_not_wait_for_what_can_be_left_out(tmp_path: Path) -> None:
    ahead = prepare(tmp_path).ahead
    ahead._hurry.set()
    ahead._work()
    assert not ahead._rehearsed
    assert not ahead._practised
    assert len(ahead.take(1).units) == 3


def test_a_lease_waits_for_the_unit_under_way_and_no_further_one(tmp_path: Path) -> None:
    ahead = prepare(tmp_path).ahead
    begun = threading.Event()
    real = ahead._look

    def look() -> None:
        begun.set()
        assert ahead._hurry.wait(60)
        real()

    ahead._look = look  # type: ignore[method-assign]
    ahead.start()
    assert begun.wait(60)
    blueprint = ahead.take(3)
    # The whole network was not rehearsed, the layer of the lease was.
    assert not ahead._rehearsed
    assert len(blueprint.units) == 3
    found = notes(tmp_path)
    assert found["unit 3"] > found["unit 2"]


def test_work_ahead_without_room_for_a_thread_is_left_for_the_next_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = prepare(tmp_path).ahead

    def full(self: threading.Thread) -> None:
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        ahead.count()
    assert ahead.work == []
    ahead.count()
    ahead.close()
    assert len(ahead.work) in {0, 3}
