"""Runs whose M or head has a v of the user's own: every unlock and profile, paths, and refusals."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from common.config import files
from common.config.sections import OWN_V
from common.config.user_code import check_sent_files
from common.data.holdings import take_stock
from common.errors import ConfigError
from common.models import network
from common.models.synthesis import check_lesson
from deploy import cli as command
from deploy.simulation.paces import paces
from tests.deploy.runs import digits, resolved, trained

OWN = """
from torch import nn

def v(input_shape, outputs):
    (size,) = input_shape
    return nn.Sequential(nn.Linear(size, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, outputs))

def whole(input_shape, output_shape):
    return nn.Linear(*input_shape, *output_shape)

def number():
    return 3

def narrow(input_shape):
    return nn.Linear(*input_shape, 3)

def raises(outputs):
    raise ValueError("no such v")

class Training(nn.Linear):
    def forward(self, h):
        return super().forward(h) / (0 if self.training else 1)

def endless(input_shape, outputs):
    return Training(*input_shape, outputs)

def dropping(input_shape, outputs):
    return nn.Sequential(nn.Dropout(), nn.Linear(*input_shape, outputs))

class Reads(nn.Linear):
    def forward(self, h):
        return super().forward(h * (1 if float(h.detach().abs().max()) < 1e9 else 0))

def reads(input_shape, outputs):
    return Reads(*input_shape, outputs)

def fixed(outputs):
    return nn.Linear(16, outputs)

class Late(nn.Linear):
    def forward(self, h):
        return super().forward(h) / (0 if self.training and h[2:].any() else 1)

def late(input_shape, outputs):
    return Late(*input_shape, outputs)

class Norm(nn.Linear):
    def forward(self, h):
        return super().forward((h * h).sum(1, keepdim=True).sqrt())

def norm(outputs):
    return Norm(1, outputs)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Path of a file with functions that build a v."""
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path}/own.py"


def option(spec: str, more: str = "") -> str:
    return f'decoupling.gradient_options={{v="{spec}"{more}}}'


@pytest.mark.parametrize(
    "settings",
    [
        ["decoupling.unlock=update"],
        ["decoupling.unlock=update", "cluster.profile=basic"],
        ["decoupling.unlock=update", "cluster.profile=synchronous"],
        ["decoupling.unlock=full"],
        ["decoupling.unlock=full", "cluster.profile=basic"],
        ["decoupling.unlock=local"],
    ],
    ids=" ".join,
)
def test_an_own_v_trains_under_every_unlock_that_has_one(own: str, settings: list[str]) -> None:
    learning = ["optimizer.learning_rate=0.01", "run.batches=120"]
    run = trained(*settings, *learning, option(f"{own}:v"))
    assert run.losses[-1] < 0.8 * run.losses[0]
    assert run.digest == trained(*settings, *learning, option(f"{own}:v")).digest
    assert run.digest != trained(*settings, *learning).digest


@pytest.mark.parametrize(
    "settings",
    [
        ["decoupling.unlock=update"],
        ["decoupling.unlock=update", "cluster.profile=synchronous"],
        ["decoupling.unlock=local"],
        ["decoupling.unlock=local", "cluster.profile=synchronous"],
    ],
    ids=" ".join,
)
def test_dropout_in_v_is_drawn_by_the_run_s_seed(own: str, settings: list[str]) -> None:
    digests = set()
    for state in (1, 2):
        torch.manual_seed(state)
        digests.add(trained(*settings, option(f"{own}:dropping")).digest)
    assert len(digests) == 1


def test_a_v_that_reads_its_numbers_has_a_pace(own: str) -> None:
    config, dataset = resolved(option(f"{own}:reads")), digits()
    blueprint = network.build(config, dataset.inputs, dataset.targets)
    assert paces(config, blueprint)[0].shards["1/gradient"].nbytes >= 4 * (16 * 10 + 10)


def test_a_linear_v_of_ones_own_is_the_built_in_one_but_for_its_start(own: str) -> None:
    settings = ["decoupling.unlock=update", "run.batches=120", "optimizer.learning_rate=0.01"]
    settings += ["decoupling.synthesizer_steps=1"]
    ours, theirs = (
        trained(*settings, each)
        for each in ("decoupling.gradient_options={hidden=0}", option(f"{own}:whole"))
    )
    assert theirs.losses == pytest.approx(ours.losses, rel=0.2)


def test_cuts_are_balanced_by_the_cost_of_the_own_v(own: str) -> None:
    sizes = ["network.options.widths=[16, 16, 16, 16]", "network.layers=3"]
    assert resolved(*sizes, option(f"{own}:v")).layers == 3


def test_a_v_that_does_not_fit_each_boundary_asks_for_cuts(own: str) -> None:
    sizes = ["network.options.widths=[16, 8, 16]", option(f"{own}:fixed")]
    with pytest.raises(
        ConfigError, match=r"for an h of \(2, 8\): .* network\.layers = 2 tries v .* after unit 2: "
    ):
        resolved(*sizes, "network.layers=2")
    assert resolved(*sizes, "network.cuts=[1, 3]").layers == 3
    with pytest.raises(ConfigError, match=r'has no function "other"$'):
        resolved(sizes[0], "network.layers=2", option(f"{own}:other"))


def test_the_path_is_found_beside_the_configuration_and_pinned(own: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('decoupling.gradient_options = { v = "own.py:v" }\n')
    config = files.load(tmp_path / "run.toml")
    assert config.user_functions == {OWN_V: f"{own}:v"}
    assert os.path.isabs(config.decoupling.own_v or "")
    with pytest.raises(ConfigError, match=r"^decoupling\.gradient_options\.v: the master names a file, own"):
        check_sent_files(config.user_functions, None, {})
    before = take_stock(config, digits()).files
    Path(own).write_text(OWN + "# changed\n")
    after = take_stock(config, digits()).files
    assert [name for name in before if before[name] != after[name]] == [f"{OWN_V} own.py"]


@pytest.mark.parametrize("more", ["", ", trained=false"])
@pytest.mark.parametrize("unlock", ["update", "local"])
def test_a_gradient_at_h_with_nan_is_refused_before_the_start(own: str, unlock: str, more: str) -> None:
    config = resolved(f"decoupling.unlock={unlock}", option(f"{own}:norm", more))
    dataset = digits()
    blueprint = network.build_initial(config, dataset.inputs, dataset.targets)
    h, y = torch.ones(4, 16), torch.zeros(4, dtype=torch.int64)
    check_lesson(config, blueprint.task, blueprint.v, h, y)
    h[1] = 0
    with pytest.raises(
        ConfigError, match=r"own\.py:norm: gives a gradient with NaN or infinity at the first"
    ):
        check_lesson(config, blueprint.task, blueprint.v, h, y)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([option("own.py:v", ", hidden=8")], "hidden: 8 is a width of the built-in v, which v ="),
        ([option("own")], 'v: "own" names no function in a file; write it as path/to/file.py:function'),
        ([option("own.py:other")], 'own.py: has no function "other"'),
        ([option("none.py:v")], "none.py: no such file"),
        ([option("own.py:number")], "own.py:number: returns 3; return an nn.Module"),
        ([option("own.py:narrow")], "own.py:narrow: gives float32 (2, 3) for an h of (2, 16); it must give"),
        (
            [option("own.py:raises")],
            "own.py:raises: raised ValueError: no such v (line 18) for input_shape =",
        ),
        ([option("own.py:endless")], "own.py:endless: gives a gradient with NaN or infinity at the first"),
        (
            [option("own.py:endless"), "decoupling.unlock=local"],
            "own.py:endless: gives a gradient with NaN or infinity at the first",
        ),
        ([option("own.py:late")], "own.py:late: gives a gradient with NaN or infinity at the first batch"),
        (
            [option("own.py:v"), "cluster.synthesis=master"],
            "cluster.synthesis: the master runs no function of a user, as M needs with decoupling.gradient_o",
        ),
        ([option("own.py:v"), "decoupling.gradient=cdni"], 'gradient_options.v: unknown key; did you mean "'),
        ([option("own.py:v"), "decoupling.unlock=none"], "decoupling.gradient_options: unknown key for"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_no_v_is_refused_before_a_process_starts(
    own: str,
    settings: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(own).parent
    monkeypatch.chdir(folder)
    keys = ["network.options.widths=[16, 16]", "run.batches=40", *settings]
    code = command.run(["train", *(word for key in keys for word in ("--set", key))])
    error = capsys.readouterr().err
    assert code == 2, error
    assert len(error.strip().splitlines()) == 1
    assert said in error
    assert not (folder / "runs").exists()
