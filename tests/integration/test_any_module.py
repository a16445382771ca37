"""Layers of any module through real processes: frozen, without parameters, tied, with dropout, recomputed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.processes import QUICK, Cli

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

# Units: all frozen, no parameters, tied weights with a checkpoint and dropout, a linear layer.
OWN = """
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 16)
        self.down.weight = self.up.weight
        self.fixed = nn.Parameter(torch.ones(16), requires_grad=False)
        self.dropout = nn.Dropout(0.1)
    def work(self, h):
        return self.down(self.dropout(torch.tanh(self.up(h)))) * self.fixed
    def forward(self, h):
        return h + checkpoint(self.work, h, use_reentrant=False)
def build(classes):
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16)).requires_grad_(False)
    return [first, nn.ReLU(), Tied(), nn.Linear(16, classes)]
"""


@pytest.mark.parametrize("profile", ["light", "basic"])
@pytest.mark.parametrize("unlock", ["none", "update", "delayed", "full"])
def test_any_module_may_be_a_layer(cli: Cli, unlock: str, profile: str) -> None:
    (cli.folder / "own.py").write_text(OWN)
    own = ["--set", "network.model=own.py:build", "--set", f"decoupling.unlock={unlock}", "--run-dir", "run"]
    more = [
        "--set",
        f"cluster.profile={profile}",
        "--set",
        "run.batches=120",
        "--set",
        "optimizer.learning_rate=0.01",
    ]
    summary = cli.json("train", *QUICK, *own, *more, "--json")
    assert summary["layers"] == 4
    if unlock != "full":  # whose messages the machine's load decides about
        assert summary["test_error_percent"] < 50
    state = load_file(cli.folder / "run" / "model.safetensors")
    assert torch.equal(state["2.up.weight"], state["2.down.weight"])
    assert torch.equal(state["2.fixed"], torch.ones(16))
    # A frozen weight is as the seed drew it.
    torch.manual_seed(0)
    assert torch.equal(state["0.1.weight"], torch.nn.Linear(64, 16).weight.detach())
    assert cli.json("evaluate", "run", "--json")["test_error_percent"] == summary["test_error_percent"]


def test_weights_tied_across_layers_are_refused_before_the_start(cli: Cli) -> None:
    text = (
        OWN
        + "\ndef tied(classes):\n    a, b = Tied(), Tied()\n    b.up.weight = b.down.weight = a.up.weight\n"
    )
    (cli.folder / "own.py").write_text(text + "    return [build(1)[0], a, b, nn.Linear(16, classes)]\n")
    refused = cli.run("train", "--set", "network.model=own.py:tied", "--set", "network.cuts=[2]")
    assert refused.returncode == 2
    assert "units 2 and 3" in refused.stderr
    assert "cut below unit 2 or after unit 3" in refused.stderr
