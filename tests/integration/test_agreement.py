"""Processes that do not hold equal data or files: refused, with the cause, never trained together."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from tests.integration.processes import QUICK, Cli, HandMade

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

SMALL = [
    *QUICK,
    "--set",
    "run.batches=40",
    "--set",
    "network.options={widths=[16]}",
    "--set",
    "run.batch_size=8",
]
# Hash randomisation gives every process its own order of a set of strings.
BY_A_SET = """
import numpy as np
NAMES = ["cat", "dog", "cow", "hen", "fox", "owl", "bee", "ant"]
def load():
    numbers = {name: number for number, name in enumerate(set(NAMES))}
    x = np.random.default_rng(0).normal(size=(64, 4))
    y = np.array([numbers[NAMES[row % 8]] for row in range(64)])
    return x, y, x, y
"""
WITHOUT_SEED = """
import numpy as np
def load():
    rows = np.random.default_rng().permutation(64)
    x, y = np.arange(256.0).reshape(64, 4)[rows], (np.arange(64) % 8)[rows]
    return x[:48], y[:48], x[48:], y[48:]
"""
NETWORK = """
from torch import nn
def build(input_shape, classes):
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU()), nn.Linear(16, classes)]
"""


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("text", [BY_A_SET, WITHOUT_SEED])
def test_a_data_function_without_fixed_results_is_refused_in_train(cli: Cli, text: str, layers: int) -> None:
    """Each slave used to train on its own data: exit 0 and 90 % error, without a warning.

    A single slave was compared with no other: the evaluator in `train` had come before the first lease.
    """
    (cli.folder / "own.py").write_text(text)
    own = ["--set", "data.dataset=own.py:load", "--set", f"network.layers={layers}"]
    done = cli.run("train", *SMALL, *own, "--json")
    assert done.returncode == 3, done.stderr
    said = done.stderr.splitlines()[-1]
    assert "the data differ: train_" in said
    assert "a data function must shuffle and split by a fixed seed" in said
    assert done.stdout == ""
    assert cli.processes() == []


def test_a_run_resumed_with_an_edited_file_is_refused_at_once(cli: Cli) -> None:
    """An edit that left the shapes alone used to go unnoticed."""
    file = cli.folder / "own.py"
    file.write_text(NETWORK)
    own = [*QUICK, "--set", "network.model=own.py:build", "--set", "run.batches=100000", "--run-dir", "run"]
    process = cli.start("train", *own)
    cli.wait_for(process, "test error", "stderr")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    file.write_text(NETWORK.replace("ReLU", "Tanh"))
    done = cli.run("train", "--run-dir", "run", "--json")
    assert done.returncode == 3, done.stderr
    assert "the user's files differ: network.model own.py is " in done.stderr.splitlines()[-1]


def test_slaves_and_evaluators_with_other_data_are_refused_by_hand(cli: Cli, by_hand: HandMade) -> None:
    for folder, seed in (("one", 1), ("two", 2)):
        (cli.folder / folder).mkdir()
        _write_data(cli.folder / folder, seed)
    data = ["--set", "data.dataset=own.py:load", "--set", "network.options={widths=[16]}"]
    by_hand.master(*QUICK, *data, "--set", "run.batch_size=8", "--set", "run.batches=100000")
    first = by_hand.slave("--code", "one")
    cli.wait_for(first, "layer 1 of", "stderr")
    for command in (["slave"], ["evaluate"]):
        done = cli.run(*command, "--master", by_hand.address, "--code", "two")
        assert done.returncode == 3, done.stderr
        assert "the user's files differ: data.dataset own.py is " in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_live_network_of_a_users_file_is_exported_with_the_files_folder(
    cli: Cli, by_hand: HandMade
) -> None:
    (cli.folder / "code").mkdir()
    for folder in (cli.folder, cli.folder / "code"):
        (folder / "own.py").write_text(NETWORK)
    by_hand.master(*QUICK, "--set", "network.model=own.py:build", "--set", "run.batches=20")
    slaves = [by_hand.slave("--code", "code") for _ in range(2)]
    outputs = [slave.communicate(timeout=120) for slave in slaves]
    assert [slave.returncode for slave in slaves] == [0, 0], outputs
    (cli.folder / "own.py").unlink()
    export = ["export", "--master", by_hand.address, "--output", "m.pt"]
    refused = cli.run(*export)
    assert refused.returncode == 2
    assert "own.py" in refused.stderr.splitlines()[-1]
    done = cli.run(*export, "--code", "code")
    assert done.returncode == 0, done.stderr
    assert "0.1.weight" in torch.load(cli.folder / "m.pt", weights_only=True)


def _write_data(folder: Path, seed: int) -> None:
    (folder / "own.py").write_text(WITHOUT_SEED.replace("default_rng()", f"default_rng({seed})"))
