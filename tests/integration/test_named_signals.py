"""Named tensors through real processes: data with a mask, a mask and a skip connection over cuts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.processes import QUICK, Cli

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

# The class is told by the tokens under the mask; the others, which are more, are noise.
DATA = """
import numpy as np
def load():
    draw = np.random.default_rng(0)
    mask = draw.random((2400, 12)) < 0.4
    mask[:, 0] = True
    y = draw.integers(0, 3, 2400)
    signs = 8 * y[:, None] + draw.integers(0, 8, mask.shape)
    tokens = np.where(mask, signs, draw.integers(0, 24, mask.shape))
    first, last = ({"tokens": tokens[rows], "mask": mask[rows]} for rows in (slice(2000), slice(2000, None)))
    return first, y[:2000], last, y[2000:]
"""
# The embedding skips the middle layer, and so does the mask.
NETWORK = """
import torch
from torch import nn
class Embed(nn.Module):
    def __init__(self, tokens):
        super().__init__()
        self.rows = nn.Embedding(tokens, 8)
    def forward(self, x):
        h = self.rows(x["tokens"])
        return {"h": h, "mask": x["mask"], "skip": h.clone()}
class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.work = nn.Linear(8, 8)
    def forward(self, s):
        return {**s, "h": torch.tanh(self.work(s["h"])) * s["mask"].unsqueeze(2)}
class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.out = nn.Linear(16, classes)
    def forward(self, s):
        mask = s["mask"].unsqueeze(2)
        joined = torch.cat([s["h"], s["skip"]], 2) * mask
        return self.out(joined.sum(1) / mask.sum(1))
def build(input_shape, classes):
    assert input_shape == {"tokens": (12,), "mask": (12,)}, input_shape
    return [Embed(24), Mix(), Head(classes)]
def drops(input_shape, classes):
    class Drops(Mix):
        def forward(self, s):
            return {"h": s["h"], "skip": s["skip"]}
    return [Embed(24), Drops(), Head(classes)]
def counts(input_shape, classes):
    class Counts(Embed):
        def forward(self, x):
            return {**super().forward(x), "count": x["mask"].sum(1)}
    return [Counts(24), Mix(), Head(classes)]
"""


def settings(cli: Cli, function: str, *more: str) -> list[str]:
    (cli.folder / "rows.py").write_text(DATA)
    (cli.folder / "own.py").write_text(NETWORK)
    keys = [
        "data.dataset=rows.py:load",
        f"network.model=own.py:{function}",
        "network.layers=3",
        "run.batches=300",
        "optimizer.learning_rate=0.01",
        *more,
    ]
    return [*QUICK, *(word for key in keys for word in ("--set", key))]


@pytest.mark.parametrize("profile", ["light", "basic", "synchronous"])
@pytest.mark.parametrize("unlock", ["none", "update", "delayed", "local", "full"])
def test_a_mask_and_a_skip_connection_cross_the_cuts(cli: Cli, unlock: str, profile: str) -> None:
    keys = settings(cli, "build", f"decoupling.unlock={unlock}", f"cluster.profile={profile}")
    summary = cli.json("train", *keys, "--run-dir", "run", "--json")
    if unlock != "full" or profile == "synchronous":  # the machine's load decides about messages of `full`
        assert summary["test_error_percent"] < 15
    assert cli.json("evaluate", "run", "--json")["test_error_percent"] == summary["test_error_percent"]
    state = load_file(cli.folder / "run" / "model.safetensors")
    assert state["0.rows.weight"].dtype == torch.float32


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
def test_narrow_floats_leave_the_mask_as_it_is(cli: Cli, wire: str) -> None:
    keys = settings(cli, "build", "decoupling.unlock=delayed", f"cluster.wire={wire}")
    assert cli.json("train", *keys, "--json")["test_error_percent"] < 15


def test_m_and_i_may_be_served(cli: Cli) -> None:
    keys = settings(
        cli, "build", "decoupling.unlock=update", "cluster.synthesis=master", "cluster.profile=light"
    )
    assert cli.json("train", *keys, "--json")["test_error_percent"] < 15


def test_a_simulated_run_knows_named_tensors(cli: Cli) -> None:
    simulated = cli.json(
        "simulate", *settings(cli, "build", "decoupling.unlock=delayed"), "--train", "--json"
    )
    assert simulated["test_error_percent"] < 15


@pytest.mark.parametrize(
    ("function", "more", "told"),
    [
        ("drops", [], r'needs the tensor "mask", which unit 2'),
        (
            "counts",
            ["decoupling.unlock=full"],
            r'passes on "count", int64 (B), which is no tensor of the data',
        ),
    ],
)
def test_units_that_do_not_fit_end_a_run_before_the_start(
    cli: Cli, function: str, more: list[str], told: str
) -> None:
    refused = cli.run("train", *settings(cli, function, *more), "--run-dir", "run")
    assert refused.returncode == 2
    assert told in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (cli.folder / "run").exists()


def test_tokens_that_i_cannot_take_end_a_run_before_the_start(cli: Cli) -> None:
    (cli.folder / "kinds.py").write_text(
        "import numpy as np\n"
        "def load():\n"
        "    kind = np.arange(400) % 5\n"
        "    x = {'kind': kind, 'mask': np.ones((400, 2), bool)}\n"
        "    return x, kind % 2, x, kind % 2\n"
    )
    (cli.folder / "own.py").write_text(
        "from torch import nn\n"
        "class Embed(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.rows = nn.Embedding(5, 4)\n"
        "    def forward(self, x):\n"
        "        return self.rows(x['kind'])\n"
        "def build(classes):\n"
        "    return [Embed(), nn.Linear(4, classes)]\n"
    )
    keys = ["data.dataset=kinds.py:load", "network.model=own.py:build", "decoupling.unlock=full"]
    refused = cli.run("train", *QUICK, *(word for key in keys for word in ("--set", key)), "--run-dir", "run")
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "decoupling.input" in refused.stderr
    assert not (cli.folder / "run").exists()
