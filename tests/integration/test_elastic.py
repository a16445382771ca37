"""Runs whose number of replicas changes under load, as real processes: every batch is trained on once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.processes import QUICK, Cli, HandMade, until

# Patient: on a crowded machine, too, no lease ends by itself.
PATIENT = [*QUICK, "--set", "cluster.misses=20"]
BATCHES, BATCH_SIZE = 3000, 32
# Handwritten digits with the number of the row before the pixels, in order that a unit can tell the rows.
DATA = f"""
import numpy as np
from sklearn.datasets import load_digits
ROWS = {BATCHES * BATCH_SIZE}
def load():
    digits = load_digits()
    x, y = digits.data.astype("float32") / 16, digits.target
    rows = np.arange(ROWS) % 1400
    number = (1 + np.arange(ROWS, dtype="float32")[:, None]) / ROWS
    held_out = np.concatenate([np.zeros((len(x) - 1400, 1), "float32"), x[1400:]], axis=1)
    return np.concatenate([number, x[rows]], axis=1), y[rows], held_out, y[1400:]
"""
# Units that note the rows that they are trained on, and take their time.
NETWORK = f"""
import os, time
import torch
from torch import nn
ROWS = {BATCHES * BATCH_SIZE}
class Noting(nn.Module):
    def __init__(self, layer, inputs, outputs, last):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(inputs, outputs), *([] if last else [nn.ReLU()]))
        self.path, self.last = f"{{os.environ['LAYERWISE_TEST']}}/rows-{{layer}}-{{os.getpid()}}", last
    def forward(self, x):
        # Blank inputs are those of a count of the work.
        if self.training and torch.is_grad_enabled() and x.any():
            rows = (x[:, 0].detach() * ROWS).round().to(torch.int32).numpy() - 1
            with open(self.path, "ab") as file:
                file.write(rows.tobytes())
            time.sleep(0.02)
        y = self.inner(x[:, 1:])
        return y if self.last else torch.cat([x[:, :1], y], 1)
def build(input_shape, classes):
    return [Noting(1, 64, 48, False), Noting(2, 48, classes, True)]
"""
OWN = ["data.dataset=data.py:load", "network.model=network.py:build", "network.layers=2"]


def settings(*keys: str) -> list[str]:
    return [part for key in keys for part in ("--set", key)]


def rows_by_layer(folder: Path, layer: int) -> Counter[int]:
    """How often a layer was trained on each row."""
    found: Counter[int] = Counter()
    for path in folder.glob(f"rows-{layer}-*"):
        found.update(np.frombuffer(path.read_bytes(), np.int32).tolist())
    return found


def repeated(rows: Counter[int]) -> list[int]:
    """Rows that were trained on twice; the rehearsal before each lease takes those of the first batch."""
    return [row for row, count in rows.items() if count > 1]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("unlock", "profile", "stores"),
    [("update", "light", 0), ("update", "basic", 0), ("full", "light", 0), ("full", "basic", 0),
     ("update", "basic", 2)],
)  # fmt: skip
def test_a_run_grows_from_one_replica_to_three_and_shrinks_to_two_and_trains_every_batch_once(
    cli: Cli, unlock: str, profile: str, stores: int
) -> None:
    (cli.folder / "data.py").write_text(DATA)
    (cli.folder / "network.py").write_text(NETWORK)
    keys = [f"cluster.profile={profile}", f"decoupling.unlock={unlock}", f"run.batches={BATCHES}", *OWN]
    keys.append(f"cluster.stores={stores}")
    process = cli.start("train", *PATIENT, *settings(*keys), "--run-dir", "run", "--json")
    file = cli.folder / "run" / "state" / "address"
    until(file.exists)
    address = file.read_text()

    def status() -> dict[str, Any]:
        return cli.json("status", "--master", address, "--json")

    until(lambda: status()["batches"] > 50, 120)
    asked = cli.json("resize", "3", "--master", address, "--json")
    assert asked == {"replicas": [1, 1], "resizing": {"replicas": [3, 3], "missing": 4, "start": 0}}
    until(lambda: status()["stage"] == 1, 120)
    grown = until(lambda: (found := status())["state"] == "training" and found, 120)
    assert len(grown["seats"]) == 6
    start = grown["stages"][1]["start"]
    until(lambda: status()["batches"] > start + 100, 120)
    done = cli.run("resize", "2", "--master", address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("replicas by layer: 3 3, then 2 2")
    shrunk = until(lambda: (found := status())["stage"] == 2 and found, 120)
    # With full, layer 2 sees a prediction, whose first column is no number of a row.
    layers = (1,) if unlock == "full" else (1, 2)
    for layer in layers:
        rows = rows_by_layer(cli.folder, layer)
        assert len(rows) >= shrunk["stages"][2]["start"] * BATCH_SIZE
        assert len(repeated(rows)) <= BATCH_SIZE
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    summary = json.loads(out)
    assert summary["lost_batches"] == 0
    # As after a run with one replica.
    assert summary["test_error_percent"] < 13
    for layer in layers:
        rows = rows_by_layer(cli.folder, layer)
        assert len(rows) == BATCHES * BATCH_SIZE
        # With full, layers go on past the last batch, into another epoch.
        assert unlock == "full" or len(repeated(rows)) <= BATCH_SIZE


@pytest.mark.slow
def test_slaves_that_go_for_good_are_done_without(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*PATIENT, *settings("run.batches=1000000", "downpour.replicas=[2, 1, 1]"))
    slaves = [by_hand.slave() for _ in range(4)]
    until(lambda: by_hand.status()["batches"] > 100, 120)
    seat = next(seat for seat in by_hand.status()["seats"] if (seat["layer"], seat["replica"]) == (1, 1))
    next(slave for slave in slaves if slave.pid == seat["pid"]).kill()
    answer = cli.json("resize", "1", "--master", by_hand.address, "--json")
    assert answer["replicas"] == [2, 1, 1]
    found = until(lambda: (now := by_hand.status())["stage"] == 1 and now["state"] == "training" and now, 120)
    assert [(each["layer"], each["replica"]) for each in found["seats"]] == [(1, 0), (2, 0), (3, 0)]
    start = found["stages"][1]["start"]
    until(lambda: by_hand.status()["batches"] > start + 100, 120)


@pytest.mark.slow
def test_a_killed_master_goes_on_with_a_change(cli: Cli, by_hand: HandMade) -> None:
    keys = settings("run.batches=1000000", "network.layers=2")
    master = by_hand.master(*PATIENT, *keys)
    for _ in range(3):
        by_hand.slave()
    until(lambda: by_hand.status()["batches"] > 100, 120)
    answer = cli.json("resize", "2", "--master", by_hand.address, "--json")
    assert answer["resizing"] == {"replicas": [2, 2], "missing": 1, "start": 0}
    master.kill()
    master.wait()
    by_hand.master(*PATIENT, *keys, listen=by_hand.address)
    assert by_hand.status()["resizing"]["replicas"] == [2, 2]
    by_hand.slave()
    found = until(lambda: (now := by_hand.status())["stage"] == 1 and now["state"] == "training" and now, 120)
    start = found["stages"][1]["start"]
    until(lambda: by_hand.status()["batches"] > start + 100, 120)


@pytest.mark.slow
def test_what_cannot_be_changed_is_refused_in_one_line(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*PATIENT)
    for arguments, code, what in (
        (["2", "2"], 3, "2 numbers for 3 layers"),
        (["1000"], 3, "1 to 64 replicas"),
        (["0"], 2, "0 is not in the range"),
        (["2", "--token-file", "run.toml"], 2, "run.toml"),
    ):
        done = cli.run("resize", *arguments, "--master", by_hand.address)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert what in done.stderr
        assert "Traceback" not in done.stderr
