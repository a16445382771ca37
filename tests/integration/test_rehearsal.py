"""What cannot succeed is refused before a run, or before a slave's first step, and is not tried again."""

from __future__ import annotations

import pytest

from tests.integration.processes import QUICK, Cli, HandMade

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

OWN = """
import torch
from torch import nn
class Own(nn.Linear):
    def forward(self, x):
        {body}
def build(classes):
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 16)), Own(16, 16), nn.Linear(16, classes)]
"""
NO_GRAD = "with torch.no_grad(): return super().forward(x)"
TUPLE = "h = super().forward(x); return (h, x) if self.training else h"
LARGE = """
import torch
from torch import nn
class Own(nn.Linear):
    def forward(self, x):
        return super().forward(x).repeat(1, 4_000_000)
class Narrow(nn.Linear):
    def forward(self, x):
        return super().forward(x[:, :16])
def build(classes):
    return [nn.Flatten(), Own(64, 1), Narrow(16, classes)]
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN.format(body=NO_GRAD), "unit 2 (Own(in_features=16"),
        (OWN.format(body=TUPLE), "gives a tuple; it must give float32 (32, 16)"),
        (LARGE, "run.batch_size: 32 examples of (4000000,) after unit 2 of "),
    ],
    ids=["no gradient", "tuple", "message"],
)
def test_a_network_that_cannot_train_is_refused_before_a_process_starts(
    cli: Cli, text: str, said: str
) -> None:
    """The slaves used to find it, one after the other, and were started six times each: 42 s."""
    (cli.folder / "own.py").write_text(text)
    done = cli.run("train", *QUICK, "--set", "network.model=own.py:build")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (cli.folder / "runs").exists()


def test_a_slave_by_hand_refuses_a_layer_that_cannot_train(cli: Cli, by_hand: HandMade) -> None:
    (cli.folder / "own.py").write_text(OWN.format(body=NO_GRAD))
    by_hand.master(*QUICK, "--set", "network.model=own.py:build")
    first = by_hand.slave("--code", ".")
    cli.wait_for(first, "layer 1 of 3", "stderr")
    done = cli.run("slave", "--master", by_hand.address, "--code", ".")
    assert done.returncode == 2, done.stderr
    assert "unit 2 (Own(" in done.stderr.splitlines()[-1]
    assert "passes no gradient back" in done.stderr.splitlines()[-1]
    assert "2/weights" not in by_hand.status()["versions"]
