"""Recurrent layers on streams through real processes: kills, resumed runs, generated text."""

from __future__ import annotations

import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import QUICK, Cli

LINES = ["the cat sat on the mat", "a dog ran to the cat", "the mat lay on the floor", "so the dog sat too"]
STREAMS = 8
KEYS = [
    "data.dataset=text", "data.path=text.txt", "data.tokens=characters", "time.window=5",
    "network.model=lstm", "network.options={width=16,depth=2,embedding=8}", "network.layers=2",
    f"run.batch_size={STREAMS}",
    "optimizer.learning_rate=0.01", "cluster.misses=10",
]  # fmt: skip


@pytest.fixture
def text(cli: Cli) -> list[str]:
    """Settings of a run on a text whose epoch is longer than the runs."""
    (cli.folder / "text.txt").write_text("\n".join(LINES * 1500))
    return [*QUICK, *settings(*KEYS)]


def settings(*keys: str) -> list[str]:
    return [part for key in keys for part in ("--set", key)]


def log_of(folder: Path, name: str) -> str:
    return (folder / "logs" / f"{name}.log").read_text()


def train_with_a_kill(cli: Cli, layer: int, *arguments: str) -> dict[str, Any]:
    """Train, kill a layer's slave after the first evaluation, and return the summary."""
    process = cli.start("train", *arguments, "--json")
    cli.wait_for(process, "test perplexity", "stderr")
    cli.of_kind("slave")[layer - 1].kill()
    cli.wait_for(process, f"slave-{layer} was killed by signal 9; restarting it", "stderr")
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    summary: dict[str, Any] = json.loads(out)
    assert summary["restarts"] == 1
    return summary


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["light", "basic"])
@pytest.mark.parametrize("backup_steps", [1, 0])
def test_a_killed_slaves_state_comes_back_from_the_backup_or_is_counted_lost(
    cli: Cli, text: list[str], profile: str, backup_steps: int
) -> None:
    more = settings(
        f"cluster.profile={profile}", f"cluster.backup_steps={backup_steps}", "downpour.n_push=1",
        "run.batches=1200", "run.evaluate_every=100", "decoupling.unlock=delayed",
    )  # fmt: skip
    summary = train_with_a_kill(cli, 2, *text, *more, "--run-dir", "run")
    # Of 20 equally likely characters: 4.3 bits.
    assert summary["metrics"]["bits_per_character"] < 3.5
    assert not [shard for shard in summary["versions"] if "state" in shard]
    log = log_of(cli.folder / "run", "slave-2")
    if backup_steps:
        (batch,) = re.findall(r"streams go on from the states after batch (\d+)", log)
        (first,) = re.findall(r"from batch ([1-9]\d*):", log)
        # Weights and state leave in the same step, but the kill may fall between the two.
        assert abs(int(first) - 1 - int(batch)) <= 3
        assert summary["lost_states"] <= STREAMS
    else:
        assert "streams go on from zeros" in log
        assert summary["lost_states"] == STREAMS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "unlock"), [("light", "delayed"), pytest.param("basic", "update", marks=pytest.mark.long)]
)
def test_decoupled_in_depth_and_time_a_run_with_a_killed_slave_ends_as_well_as_one_without(
    cli: Cli, text: list[str], profile: str, unlock: str
) -> None:
    # Words by chance, whose loss has a floor: of a text known by heart nothing is left to compare.
    chosen = random.Random(0).choices(" ".join(LINES).split(), k=20_000)
    (cli.folder / "text.txt").write_text(" ".join(chosen))
    more = settings(
        f"cluster.profile={profile}", f"decoupling.unlock={unlock}", "time.gradient=dni", "run.batches=1000",
        "run.evaluate_every=100", "optimizer.schedule=cosine",
    )  # fmt: skip
    whole = cli.json("train", *text, *more, "--run-dir", "whole", "--json")
    killed = train_with_a_kill(cli, 1, *text, *more, "--run-dir", "killed")
    assert whole["restarts"] == 0
    for summary in (whole, killed):
        assert summary["versions"]["1/time"] > 50
        assert summary["versions"]["2/time"] > 50
    # Of 20 equally likely characters: 4.3 bits; of 24 words of 3.1 characters and a space, by chance: 0.9.
    assert whole["metrics"]["bits_per_character"] < 1.5
    assert killed["test_loss"] == pytest.approx(whole["test_loss"], rel=0.03)
    lines = (cli.folder / "killed" / "metrics.jsonl").read_text().splitlines()
    told = [line for line in map(json.loads, lines) if line.get("time_loss")]
    assert {line["layer"] for line in told} == {1, 2}
    assert all(line["time_norm_ratio"] > 0 for line in told[-2:])


@pytest.mark.slow
def test_an_interrupted_run_goes_on_from_its_states(cli: Cli, text: list[str]) -> None:
    more = settings(
        "cluster.backup_steps=1", "downpour.n_push=1", "run.batches=400", "run.evaluate_every=100",
        "decoupling.unlock=delayed", "time.gradient=dni",
    )  # fmt: skip
    process = cli.start("train", *text, *more, "--run-dir", "run")
    cli.wait_for(process, "test perplexity", "stderr")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    summary = cli.json("train", "--run-dir", "run", "--json")
    assert summary["metrics"]["bits_per_character"] < 4
    assert summary["versions"].keys() == {f"{k}/{kind}" for k in (1, 2) for kind in ("weights", "time")}
    # A slave is told to stop between two steps or in one; then weights and states may be a window apart.
    assert summary["lost_states"] <= 2 * STREAMS
    for layer in (1, 2):
        log = log_of(cli.folder / "run", f"slave-{layer}")
        (batch,) = re.findall(r"streams go on from the states after batch (\d+)", log)
        (first,) = re.findall(r"from batch ([1-9]\d*):", log)
        assert abs(int(first) - 1 - int(batch)) <= 3


@pytest.mark.slow
def test_a_run_in_step_generates_with_a_state_that_reaches_beyond_the_window(
    cli: Cli, text: list[str]
) -> None:
    keys = ["cluster.profile=synchronous", "decoupling.unlock=none", "run.batches=60", "time.window=2"]
    summary = cli.json("train", *text, *settings(*keys), "--run-dir", "run", "--json")
    assert 0 < summary["metrics"]["bits_per_character"] < 4.3
    assert summary["lost_states"] == 0
    more = ["--tokens", "5", "--temperature", "0", "--json"]
    said = cli.json("generate", "run", "--prompt", "the cat sat on the ma", *more)
    assert len(str(said["text"])) == len("the cat sat on the ma") + 5
    measured = cli.json("evaluate", "run", "--json")
    assert measured["test_loss"] == pytest.approx(summary["test_loss"], rel=1e-5)
