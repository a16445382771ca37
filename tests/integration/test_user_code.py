"""A user's files that print, start processes, or have the names of installed modules."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.integration.processes import QUICK, Cli, HandMade

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

TINY = [*QUICK, "--set", "run.batches=20", "--set", "network.options={}", "--set", "network.layers=2"]
# At import, in the call and in every forward; by print, by descriptor and by a process.
PRINTS = """
import os, subprocess, sys
from torch import nn
print("import of the network")
os.write(1, b"descriptor of the network\\n")
class Loud(nn.Linear):
    def forward(self, x):
        print("forward of the network")
        return super().forward(x)
def build(input_shape, classes):
    print("call of the network", flush=True)
    subprocess.run(["echo", "process of the network"])
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU()), Loud(16, classes)]
"""
DATA = """
import numpy as np
print("import of the data")
def load():
    print("call of the data")
    x = np.random.default_rng(0).normal(size=(64, 8, 8))
    return x, np.arange(64) % 4, x, np.arange(64) % 4
"""
WORKERS = """
import multiprocessing
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
class Rows(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, row):
        return torch.full((8,), float(row)), row % 4
def load():
    loader = DataLoader(Rows(), batch_size=16, num_workers=2, multiprocessing_context={method!r})
    x, y = (torch.cat(each).numpy() for each in zip(*loader))
    return x, y, x, y
"""

POOL = """
import multiprocessing
import numpy as np
def row(number):
    return [float(number)] * 8
def load():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        x = np.array(pool.map(row, range(64)))
    return x, np.arange(64) % 4, x, np.arange(64) % 4
"""

VIRTUAL = """
from torch import nn
def v(input_shape, outputs):
    (size,) = input_shape
    return nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))
"""


@pytest.fixture
def loud(cli: Cli) -> list[str]:
    """Settings of a run whose network and data print."""
    (cli.folder / "loud.py").write_text(PRINTS)
    (cli.folder / "rows.py").write_text(DATA)
    return [*TINY, "--set", "network.model=loud.py:build", "--set", "data.dataset=rows.py:load"]


def test_prints_of_a_users_files_never_come_before_the_json(cli: Cli, loud: list[str]) -> None:
    """The lines used to come before the JSON of train, evaluate and simulate."""
    in_step = ["--set", "cluster.profile=synchronous", "--run-dir", "run"]
    for command in (["train", *loud, *in_step], ["evaluate", "run"], ["simulate", *loud, "--slaves", "2"]):
        done = cli.run(*command, "--json")
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)
        assert "descriptor of the network" in done.stderr
        assert "process of the network" in done.stderr
        assert "call of the data" in done.stderr


def test_a_master_with_a_network_that_prints_listens_and_its_slaves_train(
    cli: Cli, by_hand: HandMade, loud: list[str]
) -> None:
    """Used to end with 2: the resolved configuration is not TOML."""
    by_hand.master(*loud)
    slaves = [by_hand.slave("--code", ".") for _ in range(2)]
    outputs = [slave.communicate(timeout=120) for slave in slaves]
    assert [slave.returncode for slave in slaves] == [0, 0], outputs
    assert [out for out, _ in outputs] == ["", ""]
    done = cli.run("evaluate", "--master", by_hand.address, "--code", ".", "--json")
    assert set(json.loads(done.stdout)) >= {"test_error_percent"}
    assert cli.run("export", "--master", by_hand.address, "--code", ".", "--output", "m.pt").stdout == ""


@pytest.mark.parametrize("profile", ["light", "basic"])
@pytest.mark.parametrize("unlock", ["update", "full", "local"])
def test_slaves_train_a_virtual_network_of_the_users_own(cli: Cli, profile: str, unlock: str) -> None:
    (cli.folder / "own.py").write_text(VIRTUAL)
    own = ["--set", "decoupling.gradient_options={v='own.py:v'}", "--set", f"decoupling.unlock={unlock}"]
    tiny = [*QUICK, "--set", "run.batches=20", "--set", "network.options={widths=[16]}"]
    summary = cli.json("train", *tiny, *own, "--set", f"cluster.profile={profile}", "--json")
    assert (summary["layers"], summary["batches"]) == (2, 20)


def test_slaves_by_hand_take_a_virtual_network_from_their_own_folder(cli: Cli, by_hand: HandMade) -> None:
    (cli.folder / "own.py").write_text(VIRTUAL)
    own = ["--set", "decoupling.gradient_options={v='own.py:v'}"]
    by_hand.master(*QUICK, "--set", "run.batches=20", "--set", "network.options={widths=[16]}", *own)
    bare = cli.run("slave", "--master", by_hand.address)
    assert bare.returncode == 2
    assert "decoupling.gradient_options.v: the master names a file, own.py" in bare.stderr
    slaves = [by_hand.slave("--code", ".") for _ in range(2)]
    outputs = [slave.communicate(timeout=120) for slave in slaves]
    assert [slave.returncode for slave in slaves] == [0, 0], outputs


def test_names_of_installed_modules_in_the_working_directory_hide_nothing(cli: Cli) -> None:
    """Every process that `train` starts used to die of a `common.py` in an otherwise empty folder."""
    for name in ("common", "random", "queue", "numpy", "torch"):
        (cli.folder / f"{name}.py").write_text("raise RuntimeError('hidden')\n")
    (cli.folder / "beside.py").write_text("WIDTH = 16\n")
    (cli.folder / "own.py").write_text(
        "import random, queue\nfrom torch import nn\nfrom beside import WIDTH\n"
        "def build(classes):\n"
        "    return [nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH)), nn.Linear(WIDTH, classes)]\n"
    )
    script = Path(sysconfig.get_path("scripts"), "layerwise")
    own = ["--set", "network.model=own.py:build", "--json"]
    done = subprocess.run(
        [str(script), "train", *TINY, *own],
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers"] == 2


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_loader_with_workers_gives_data_in_every_process(cli: Cli, method: str) -> None:
    """Workers used to die: no module of the user's file's private name was to be found."""
    (cli.folder / "random.py").write_text(WORKERS.replace("{method!r}", repr(method)))
    tiny = [*QUICK, "--set", "run.batches=20", "--set", "network.options={widths=[16]}"]
    tiny += ["--set", "network.layers=2"]
    summary = cli.json("train", *tiny, "--set", "data.dataset=random.py:load", "--json")
    assert summary["batches"] == 20


def test_a_pool_of_forked_processes_ends_in_every_process(cli: Cli) -> None:
    """The pool's processes had this process' handlers, did not heed their end, and the start never ended."""
    (cli.folder / "own.py").write_text(POOL)
    tiny = [*QUICK, "--set", "run.batches=20", "--set", "network.options={widths=[16]}"]
    summary = cli.json("train", *tiny, "--set", "data.dataset=own.py:load", "--json")
    assert summary["batches"] == 20
