"""Tasks other than classification, through real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import QUICK, Cli

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

DIABETES = """
import numpy as np
from sklearn.datasets import load_diabetes
def load():
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / x.std(0)).astype("float32"), (y[order] - 152.0) / 77.0
    return x[:352], y[:352], x[352:], y[352:]
"""
LABELS = """
import numpy as np
def load():
    x = np.random.default_rng(0).normal(size=(1200, 6)).astype("float32")
    y = (x[:, :3] + x[:, 3:] > 0).astype("int64")
    return x[:1000], y[:1000], x[1000:], y[1000:]
"""
QUANTILE = """
import torch
def pinball(output, target, quantile=0.5):
    below = target[:, None] - output
    return torch.maximum(quantile * below, (quantile - 1) * below).mean(1)
"""
NETWORK = ["--set", "network.options={widths=[32],batch_norm=false}", "--set", "run.batches=400"]


def train(cli: Cli, *settings: str) -> dict[str, Any]:
    keys = [word for each in settings for word in ("--set", each)]
    return cli.json("train", *QUICK, *NETWORK, *keys, "--run-dir", "run", "--json")


def evaluations(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "evaluation"]


def test_a_regression_on_diabetes_beats_the_mean_and_shows_its_own_metrics(cli: Cli) -> None:
    (cli.folder / "own.py").write_text(DIABETES)
    summary = train(cli, "data.dataset=own.py:load", "task.kind=regression")
    assert (summary["task"], summary["test_error_percent"]) == ("regression", None)
    # The targets have a variance of 1, and linear regression leaves about half of it.
    assert summary["metrics"]["mse"] < 0.75
    assert summary["metrics"]["mse"] == pytest.approx(summary["test_loss"])
    assert set(summary["metrics"]) == {"mse", "mae"}
    assert evaluations(cli.folder)[-1]["metrics"] == summary["metrics"]
    assert (cli.folder / "run" / "plots" / "mse.png").exists()
    shown = cli.run("evaluate", "run")
    assert shown.stdout.startswith(f"test mse {summary['metrics']['mse']:.4f}, test mae "), shown


def test_labels_are_learned_with_a_local_loss_and_by_m(cli: Cli) -> None:
    (cli.folder / "own.py").write_text(LABELS)
    summary = train(cli, "data.dataset=own.py:load", "task.kind=multi-label", "decoupling.gradient=cdni")
    assert summary["test_error_percent"] is None
    assert summary["metrics"]["label_error_percent"] < 20
    assert summary["metrics"]["f1"] > 0.8


def test_a_users_loss_trains_in_slaves_that_know_neither_the_loss_nor_the_data_by_heart(cli: Cli) -> None:
    (cli.folder / "own.py").write_text(DIABETES)
    (cli.folder / "loss.py").write_text(QUANTILE)
    summary = train(
        cli, "data.dataset=own.py:load", "task.kind=loss.py:pinball", "task.options={quantile=0.9}",
        "decoupling.unlock=local",
    )  # fmt: skip
    assert (summary["metrics"], summary["test_error_percent"]) == ({}, None)
    # The best constant has a pinball loss of about 0.18.
    assert summary["test_loss"] < 0.17
    assert (cli.folder / "run" / "plots" / "test_loss.png").exists()
