"""Copy through real processes: levels rise, slaves and the master are killed, and a run is resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import QUICK, Cli
from tests.integration.test_time import settings

KEYS = settings(
    "data.dataset=copy", "time.window=3", "network.model=lstm", "network.options={width=16}",
    "network.cuts=[1]", "run.batch_size=16", "optimizer.learning_rate=0.02", "decoupling.unlock=delayed",
    "downpour.n_push=5",
    "cluster.misses=10",
)  # fmt: skip


def levels_told(folder: Path) -> list[int]:
    """Return the first batches of the levels that the master has logged, the first level's included."""
    events = [json.loads(line) for line in (folder / "state" / "events.jsonl").read_text().splitlines()]
    return [0, *(event["batch"] for event in events if event["event"] == "level")]


def check(summary: dict[str, Any], folder: Path) -> None:
    assert summary["levels"] == levels_told(folder)
    assert len(summary["levels"]) > 1
    assert summary["metrics"]["longest_solved"] == 2 + len(summary["levels"])
    assert 1 <= summary["metrics"]["level"] <= len(summary["levels"])
    assert all(
        later - earlier >= 200
        for earlier, later in zip(summary["levels"], summary["levels"][1:], strict=False)
    )


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["light", pytest.param("basic", marks=pytest.mark.long)])
def test_copy_climbs_though_a_slave_and_the_master_are_killed(cli: Cli, profile: str) -> None:
    more = settings(f"cluster.profile={profile}", "run.batches=1000", "run.evaluate_every=200")
    process = cli.start("train", *QUICK, *KEYS, *more, "--run-dir", "run", "--json")
    cli.wait_for(process, "longest solved", "stderr")
    cli.of_kind("slave")[1].kill()
    cli.wait_for(process, "slave-2 was killed by signal 9; restarting it", "stderr")
    cli.wait_for(process, "longest solved", "stderr")
    cli.of_kind("master")[0].kill()
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    summary = json.loads(out)
    assert summary["restarts"] == 2
    check(summary, cli.folder / "run")
    measured = cli.json("evaluate", "run", "--json")
    assert measured["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-4)
    assert measured["metrics"]["level"] == summary["metrics"]["level"]


@pytest.mark.slow
@pytest.mark.long
def test_a_resumed_run_goes_on_with_its_list_of_levels(cli: Cli) -> None:
    more = settings("run.batches=800", "run.evaluate_every=300")
    process = cli.start("train", *QUICK, *KEYS, *more, "--run-dir", "run")
    cli.wait_for(process, "longest solved", "stderr")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    saved = json.loads((cli.folder / "run" / "state" / "roster.json").read_text())["curriculum"]
    summary = cli.json("train", "--run-dir", "run", "--json")
    assert summary["levels"][: len(saved["starts"])] == saved["starts"]
    check(summary, cli.folder / "run")
