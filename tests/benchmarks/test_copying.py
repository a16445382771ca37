"""The plain loop of recurrent layers, and its curriculum."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import copying
from benchmarks.copying import METHODS, Curriculum, DniLearner, Learner, Setting
from common.config.tasks import IGNORED
from common.data.copying import COPY_VOCABULARY, Episodes, Level, pack

SMALL = Setting(streams=4, width=6, hidden=(), window=3)


def windows(count: int) -> list[tuple[Tensor, Tensor]]:
    episodes = Episodes(SMALL.window, repeats=False)
    read = (episodes.read(pack(1, window, np.arange(SMALL.streams))) for window in range(count))
    return [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in read]


def test_the_loop_without_m_is_truncated_back_propagation_as_commonly_written() -> None:
    learner = Learner(SMALL)
    embedding, core, head = nn.Embedding(COPY_VOCABULARY, 6), nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 4)
    state = learner.units.state_dict()
    embedding.load_state_dict({"weight": state["0.weight"]})
    core.load_state_dict({name: state[f"1.core.{name}"] for name in core.state_dict()})
    head.load_state_dict({name: state[f"2.{name}"] for name in ("weight", "bias")})
    plain = nn.ModuleList([embedding, core, head])
    optimizer = torch.optim.Adam(plain.parameters(), SMALL.rate)
    carried = (torch.zeros(1, 4, 6), torch.zeros(1, 4, 6))
    for x, y in windows(6):
        learner.learn(x, y)
        output, carried = core(embedding(x), carried)
        carried = (carried[0].detach(), carried[1].detach())
        losses = F.cross_entropy(head(output).transpose(1, 2), y, ignore_index=IGNORED, reduction="none")
        loss = (losses.sum(1) / (y != IGNORED).sum(1).clamp(min=1)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for mine, other in zip(learner.units.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(learner.state, torch.cat([*carried], -1).squeeze(0))


@pytest.mark.parametrize("method", ["dni", "aux", "lambda"])
def test_m_begins_as_no_m_and_then_changes_the_steps(method: str) -> None:
    plain, learner = Learner(SMALL), METHODS[method](SMALL)
    for number, (x, y) in enumerate(windows(8)):
        plain.learn(x, y)
        learner.learn(x, y)
        if number == 0:
            pairs = zip(plain.units.parameters(), learner.units.parameters(), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
    one, other = (each.units.state_dict()["1.core.weight_hh_l0"] for each in (plain, learner))
    assert not torch.equal(one, other)


def test_a_trace_without_decay_learns_as_dni_does() -> None:
    dni, traces = DniLearner(SMALL), METHODS["lambda"](dataclasses.replace(SMALL, decay=0.0))
    for x, y in windows(8):
        dni.learn(x, y)
        traces.learn(x, y)
    for one, other in zip(dni.units.parameters(), traces.units.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_levels_begin_when_an_average_of_a_hundred_windows_is_below_the_bound() -> None:
    curriculum = Curriculum(SMALL)
    for batch in range(150):
        curriculum.add(batch, {"loss": 0.1 if batch >= 40 else 1.0, "count": 1})
    assert curriculum.solved == []
    batch = 150
    while not curriculum.solved:
        curriculum.add(batch, {"loss": 0.0, "count": 1})
        batch += 1
    assert curriculum.solved == [batch - 1]
    assert (curriculum.level, curriculum.start) == (Level(2), batch)
    # The average begins anew: no level is solved by the windows of the last.
    for late in range(99):
        curriculum.add(batch + late, {"loss": 0.0, "count": 1})
    assert len(curriculum.solved) == 1
    curriculum.add(batch + 99, {"loss": 0.0, "count": 0})
    assert len(curriculum.solved) == 2


def test_the_benchmark_writes_a_row_for_every_method_and_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(copying, "RESULTS", tmp_path / "copying.json")
    copying.main(["--task", "repeat-copy", "--width", "4", "--seeds", "2", "--batches", "3"])
    rows = json.loads((tmp_path / "copying.json").read_text())["rows"]
    assert [(row["method"], row["seed"]) for row in rows] == [(m, s) for s in range(2) for m in METHODS]
    assert all(row["length"] == 0 and row["solved"] == [] and row["bits"] > 0 for row in rows)
    assert "| repeat-copy | 2 | aux | 3 | 0, 0 |" in capsys.readouterr().out
