"""Layers of any module through real processes: frozen, without parameters, tied, with dropout, recomputed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from common.net import control
from common.wire.messages import StatusRequest
from common.wire.methods import STATUS
from tests.integration.processes import QUICK, Cli, HandMade

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


# The first unit of a network that has been trained, fixed, below a new head.
TUNED = """
from safetensors.torch import load_file
from torch import nn
def build(classes):
    known = load_file("before/model.safetensors")
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU())
    first[1].load_state_dict({name: known[f"0.1.{name}"] for name in ("weight", "bias")})
    return [first.requires_grad_(False), nn.Linear(512, classes)]
def before(classes):
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU()), nn.Linear(512, classes)]
"""


@pytest.mark.parametrize("push", ["update", "gradient"])
def test_a_fine_tuned_network_keeps_its_frozen_weights_to_the_bit(cli: Cli, push: str) -> None:
    (cli.folder / "own.py").write_text(TUNED)
    adam = ["--set", "optimizer.name=adam", "--set", "optimizer.learning_rate=0.001"]
    common = [*QUICK, *adam, "--set", "run.batches=60"]
    in_step = ["--set", "cluster.profile=synchronous", "--set", "network.model=own.py:before"]
    cli.json("train", *common, *in_step, "--run-dir", "before", "--json")
    tuned = [*common, "--set", "network.model=own.py:build", "--set", "network.layers=2"]
    tuned += ["--set", f"downpour.push={push}"]
    summary = cli.json("train", *tuned, "--run-dir", "after", "--json")
    # Of ten classes a guess misses nine; how many pushes of gradients come in is up to the machine's load.
    assert summary["test_error_percent"] < 70
    before, after = (load_file(cli.folder / run / "model.safetensors") for run in ("before", "after"))
    assert torch.equal(after["0.1.weight"], before["0.1.weight"])
    assert torch.equal(after["0.1.bias"], before["0.1.bias"])
    assert not torch.equal(after["1.weight"], before["1.weight"])


def test_a_layer_that_learns_nothing_pushes_its_progress_alone(cli: Cli, by_hand: HandMade) -> None:
    (cli.folder / "own.py").write_text(
        "from torch import nn\ndef build(classes):\n"
        "    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU()).requires_grad_(False)\n"
        "    return [first, nn.Linear(512, classes)]\n"
    )
    keys = ["network.model=own.py:build", "network.layers=2", "optimizer.name=adam", "run.batches=60"]
    keys += ["cluster.profile=basic", "decoupling.unlock=none", "downpour.n_push=5"]
    by_hand.master(*QUICK, *(part for key in keys for part in ("--set", key)))
    slaves = [by_hand.slave("--code", ".") for _ in range(2)]
    outputs = [slave.communicate(timeout=120) for slave in slaves]
    assert [slave.returncode for slave in slaves] == [0, 0], outputs
    channel = control.channel(by_hand.address)
    status = control.call(channel, STATUS, StatusRequest(), 10.0)
    channel.close()
    versions = status.versions
    assert set(versions) == {"1/weights", "2/weights", "2/optimizer"}
    assert versions["1/weights"] > 3
    # The head's weights, and two moments with a count; a push without an answer may come twice.
    frozen, head, moments = 4 * 65 * 512, 4 * 513 * 10, 8 * 513 * 10 + 4
    due = frozen + head * (1 + versions["2/weights"]) + moments * (1 + versions["2/optimizer"])
    assert due <= status.counters.bytes_received < due + frozen


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
