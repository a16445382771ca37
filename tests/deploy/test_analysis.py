"""layerwise analyze: measures whose values are known, files, and what is left out."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

import layerwise
from common.config.synthesizers import VfbnOptions
from common.models.own_losses import has_losses
from common.signals.packing import Packing
from common.signals.values import plain
from common.synthesizers import VirtualForward
from deploy import cli as command
from deploy.analysis import gradients, representations, sentences, weights
from deploy.analysis.subjects import Subject, read_runs
from deploy.pages.figures import logarithmic
from deploy.runs.kept import Kept
from tests.deploy.runs import STEP

KEEP: dict[str, Any] = STEP | {"run.keep": [1, 19, 20], "network.options": {"widths": [8, 8]}}
REGRESSION = """\
import numpy as np


def line():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("f4")
    y = x.sum(1, keepdims=True)
    return x, y, x[:20], y[:20]
"""
TINY = """\
import numpy as np


def tiny():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("f4")
    y = (np.arange(8) % 4).astype("i8")
    return x, y, x[:{rows}], y[:{rows}]
"""
# Two units with an own loss; "skip" passes the second unchanged, which uses it, too.
SKIPPING = """\
import torch
from torch import nn


class Start(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, 4)

    def forward(self, x):
        return {"h": self.map(x), "skip": self.map(x).tanh()}

    def losses(self, h, y):
        return 10 * h["h"].square().mean(1)


class Middle(Start):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, s):
        return {**s, "h": self.map(s["h"]) + 3 * s["skip"]}


class End(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.map = nn.Linear(8, outputs)

    def forward(self, s):
        return self.map(torch.cat([s["h"], s["skip"]], 1))


def build(input_shape, outputs):
    return [Start(), Middle(), End(outputs)]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run with M, and a run without."""
    folder = tmp_path_factory.mktemp("runs")
    for name, unlock in (("with", "update"), ("without", "none")):
        layerwise.train(run_dir=folder / name, progress=False, **(KEEP | {"decoupling.unlock": unlock}))
    return folder


@pytest.fixture
def subject(runs: Path) -> Subject:
    (run,) = read_runs([runs / "with"], None, None)
    return run.open(run.points[-1])


def test_dissimilarity_is_one_minus_the_correlation() -> None:
    h = torch.tensor([[1.0, 2, 3], [10, 20, 30], [3, 2, 1], [5, 5, 5]])
    expected = [[0, 0, 2, 1], [0, 0, 2, 1], [2, 2, 0, 1], [1, 1, 1, 0]]
    np.testing.assert_allclose(representations.dissimilarity(h), expected, atol=1e-12)


def test_the_distance_of_units_counts_pairs_of_one_class() -> None:
    one = np.zeros((3, 3))
    other = np.array([[0, 0.5, 2], [0.5, 0, 2], [2, 2, 0]])
    classes = np.array([0, 0, 1])
    of_one_class, every = (representations.find_pairs(3, each) for each in (classes, None))
    assert representations.distances([one, other], of_one_class)[0, 1] == 0.5
    assert representations.distances([one, other], every)[0, 1] == pytest.approx(((0.25 + 4 + 4) / 3) ** 0.5)
    assert representations.mean_by_class(other, classes) == [[0.5, 2], [2, None]]


def test_a_probe_reads_a_class_that_a_plane_separates_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    h = torch.randn(600, 30, generator=torch.Generator().manual_seed(0))
    straight, round_ = (h[:, 0] > 0).long(), (h[:, :2].norm(dim=1) > 1.2).long()
    train, test = h[:400], h[400:]
    assert representations.probe(train, straight[:400], test, straight[400:], 2)[1] < 8
    assert representations.probe(train, round_[:400], test, round_[400:], 2)[1] > 30
    # Random sums of the numbers tell as much; the first numbers alone tell nothing.
    monkeypatch.setattr(representations, "MOST_FEATURES", 60)
    wide = torch.cat([torch.zeros(600, 60), h], 1)
    assert representations.probe(wide[:400], straight[:400], wide[400:], straight[400:], 2)[0] < 2


def test_examples_are_ordered_by_class_and_spread_over_the_test_set(subject: Subject) -> None:
    sample = representations.take_test(subject.run, 100)
    assert len(sample.y) == 100
    assert sample.y.tolist() == sorted(sample.y.tolist())
    assert set(sample.y.tolist()) == set(range(10))


def test_an_m_that_is_the_layers_above_has_the_true_gradient_and_the_true_surface(subject: Subject) -> None:
    # A virtual network of one linear map, with the weights of the last unit.
    last = subject.units[-1].state_dict()
    module = VirtualForward(VfbnOptions(hidden=0), (8,), subject.task)
    module.load_state_dict({"v.0.weight": last["0.weight"].T, "v.0.bias": last["0.bias"]})
    same = dataclasses.replace(subject, synthesizers={2: module})
    found = gradients.compare_gradients(same)[2]
    assert found["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["norm_ratio"] == pytest.approx(1, abs=1e-5)
    sample = representations.take_test(subject.run, 100)
    h = list(representations.represent(same, sample.x))[1]
    assert h is not None
    surface = gradients.measure_surface(same, 2, h, sample)
    spread = float(np.ptp(surface.true))
    np.testing.assert_allclose(surface.implied, surface.true, atol=0.02 * spread)
    assert surface.correlation > 0.999
    # The grid holds every example of the label.
    assert surface.examples[:, 0].min() >= surface.first[0]
    assert surface.examples[:, 1].max() <= surface.second[-1]


def test_a_random_m_has_another_gradient(subject: Subject) -> None:
    module = subject.synthesizers[1]
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    assert abs(gradients.compare_gradients(subject)[1]["cosine"]) < 0.9


def test_the_true_gradient_has_the_own_losses_above_and_a_skip_used_above_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.py").write_text(REGRESSION)
    Path("net.py").write_text(SKIPPING)
    keys = {
        "data.dataset": "data.py:line", "task.kind": "regression", "run.batch_size": 16, "run.batches": 2,
        "run.keep": [2], "network.model": "net.py:build", "network.options": {},
    }  # fmt: skip
    layerwise.train(run_dir="run", progress=False, **(STEP | keys))
    (run,) = read_runs([Path("run")], None, None)
    subject = run.open(run.points[-1])
    assert len(subject.units) == 3

    class Exact:
        def __init__(self, k: int) -> None:
            self.above, self.packing = subject.units[k:], Packing(run.blueprint.forms[k - 1])

        def gradient(self, h: Tensor, y: Tensor) -> Tensor:
            h = h.requires_grad_()
            signal = self.packing.unpack(h)
            total = torch.zeros(())
            for unit in self.above:
                signal = unit(signal)
                total = total + (unit.losses(signal, y).sum() if has_losses(unit) else 0)
            (delta,) = torch.autograd.grad(total + subject.task.total(plain(signal), y), h)
            return delta

    exact: Any = {k: Exact(k) for k in (1, 2)}
    for found in gradients.compare_gradients(dataclasses.replace(subject, synthesizers=exact)).values():
        assert found["cosine"] == pytest.approx(1, abs=1e-5)
        assert found["norm_ratio"] == pytest.approx(1, abs=1e-5)


def test_updates_are_of_a_batch(subject: Subject) -> None:
    run = subject.run
    first, before = run.open(run.points[0]), run.open(run.points[1])
    one_step, many = weights.updates(before, subject), weights.updates(first, subject)
    w, v = (each.units[0].state_dict()["1.weight"] for each in (before, subject))
    assert one_step[0] == pytest.approx(float((v - w).norm() / w.norm()), rel=1e-5)
    w = first.units[0].state_dict()["1.weight"]
    assert many[0] == pytest.approx(float((v - w).norm() / w.norm()) / 19, rel=1e-5)
    assert weights.squared_norms(subject)[0] == pytest.approx(float(v.square().sum()), rel=1e-5)


def test_networks_of_a_run_are_compared_over_time(runs: Path, tmp_path: Path) -> None:
    assert command.run(["analyze", str(runs / "with"), "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "analysis.json").read_text())
    assert [each["batch"] for each in result["networks"]] == [1, 19, 20]
    assert result["runs"][0]["synthesis"].keys() == {"1", "2"}
    last = result["networks"][-1]
    assert last["units"] == [1, 2, 3]
    # To the last unit below the output.
    assert last["distance_to_last"][1] == 0
    assert np.shape(last["dissimilarity_by_class"]) == (3, 10, 10)
    assert len(last["probe_error_percent"]["test"]) == len(last["squared_weight_norm"]) == 3
    assert last["gradients"].keys() == last["surfaces"].keys() == {"1", "2"}
    assert result["networks"][0]["update_to_weight"] is None
    page = (tmp_path / "analysis.html").read_text()
    assert not re.search(r'(src|href|srcset)="(?!data:)', page)
    assert "<script" not in page
    # Every figure says how to read it.
    assert page.count("<figure>") == page.count("<figcaption>") > 8
    for name in ("dissimilarity-1", "distance-to-last", "surface-3", "synthesis-1-dark"):
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 1000


def test_several_runs_are_compared_by_the_last_network_of_each(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [str(runs / name) for name in ("with", "without")]
    assert command.run(["analyze", *paths, "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert [(each["run"], each["batch"]) for each in result["networks"]] == [("with", 20), ("without", 20)]
    (left_out,) = result["left_out"]
    assert left_out["network"] == "without"
    assert 'decoupling.unlock = "none" has no M' in left_out["reason"]
    assert "Left out" in (tmp_path / "analysis.html").read_text()


def test_a_run_that_has_kept_nothing_is_analyzed_at_its_end_without_m(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "with", run)
    for file in run.glob("kept-*"):
        file.unlink()
    assert command.run(["analyze", str(run), "--out", str(tmp_path / "out")]) == 0
    reasons = [
        each["reason"] for each in json.loads((tmp_path / "out/analysis.json").read_text())["left_out"]
    ]
    assert any("model.safetensors has no M beside it; train with run.keep = [20]" in each for each in reasons)
    assert any("need two networks" in each for each in reasons)


def test_a_run_of_a_single_layer_is_not_told_to_keep_an_m(tmp_path: Path) -> None:
    keys = {"network.cuts": [], "run.batches": 2, "run.keep": [2]}
    layerwise.train(run_dir=tmp_path / "run", progress=False, **(STEP | keys))
    assert command.run(["analyze", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    reasons = [
        each["reason"] for each in json.loads((tmp_path / "out/analysis.json").read_text())["left_out"]
    ]
    assert any(each.endswith("a single layer has no M") for each in reasons)
    assert not any("M beside it" in each for each in reasons)


def test_other_tasks_have_what_has_a_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.py").write_text(REGRESSION)
    keys = {"data.dataset": "data.py:line", "task.kind": "regression", "run.batch_size": 16, "run.keep": [20]}
    layerwise.train(run_dir="run", progress=False, **(STEP | keys))
    assert command.run(["analyze", "run", "--out", "out"]) == 0
    result = json.loads(Path("out/analysis.json").read_text())
    (network,) = result["networks"]
    assert not network["probe_error_percent"]
    assert network["surfaces"]["1"]["label"] is None
    # The output has one number, which correlates with nothing.
    assert network["units"] == [1]
    assert any("has no classes" in each["reason"] for each in result["left_out"])


@pytest.mark.parametrize(("rows", "reason"), [(1, "no two examples"), (3, "no two examples of one class")])
def test_a_test_set_too_small_to_compare_is_left_out(
    rows: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.py").write_text(TINY.format(rows=rows))
    keys = {"data.dataset": "data.py:tiny", "run.batch_size": 4, "run.batches": 2, "run.keep": [2]}
    layerwise.train(run_dir="run", progress=False, **(STEP | keys))
    assert command.run(["analyze", "run", "--out", "out"]) == 0
    result = json.loads(Path("out/analysis.json").read_text())
    assert result["networks"][0]["distances"] is None
    assert result["networks"][0]["gradients"].keys() == {"1"}
    assert any(f"the test set has {reason}" in each["reason"] for each in result["left_out"])


def test_a_target_of_several_positions_has_no_surface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on the mat\n" * 100)
    keys: dict[str, Any] = {
        "data.dataset": "text", "data.path": "text.txt", "network.model": "gpt", "data.context": 8,
        "network.options": {"width": 8, "blocks": 1, "heads": 1}, "run.batch_size": 8, "run.batches": 2,
        "run.keep": [2], "decoupling.unlock": "update",
    }  # fmt: skip
    layerwise.train(run_dir="run", progress=False, **(STEP | keys))
    assert command.run(["analyze", "run", "--out", "out"]) == 0
    (network,) = json.loads(Path("out/analysis.json").read_text())["networks"]
    assert network["gradients"].keys() == {"1", "2"}
    assert network["surfaces"] == {}


def test_streams_have_weights_and_m_over_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on the mat\n" * 100)
    keys: dict[str, Any] = {
        "data.dataset": "text", "data.path": "text.txt", "network.model": "gru", "time.window": 8,
        "network.options": {"width": 8}, "run.batch_size": 8, "run.keep": [19, 20],
    }  # fmt: skip
    layerwise.train(run_dir="run", progress=False, **(STEP | keys))
    assert command.run(["analyze", "run", "--out", "out"]) == 0
    result = json.loads(Path("out/analysis.json").read_text())
    assert result["networks"][1]["update_to_weight"][1] > 0
    assert result["networks"][0]["distances"] is None
    assert any("carry a state" in each["reason"] for each in result["left_out"])
    assert result["runs"][0]["synthesis"]


def test_what_cannot_be_analyzed_is_refused(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert command.run(["analyze", *arguments, "--out", str(tmp_path / "out")]) == 2
        return capfd.readouterr().err

    assert "Missing argument" in refused()
    assert "config.toml: is missing; give the directory of a run" in refused(str(tmp_path / "nowhere"))
    run = str(runs / "with")
    assert "is given twice" in refused(run, run)
    broken = tmp_path / "broken"
    shutil.copytree(runs / "with", broken)
    (broken / Kept(20).gradients).write_bytes(b"torn")
    assert "kept-20-gradient.safetensors: is torn" in refused(str(broken))
    shutil.copy(runs / "with" / Kept(20).model, broken / Kept(20).gradients)
    assert "does not fit the run's config.toml" in refused(str(broken))
    for file in [*broken.glob("*.safetensors"), broken / "summary.json"]:
        file.unlink()
    assert "holds no network: the run is not trained to a batch of run.keep" in refused(str(broken))


def test_runs_are_named_by_what_differs_in_their_paths() -> None:
    from deploy.analysis.subjects import name_runs

    assert name_runs([Path("/a/one/seed-0"), Path("/a/other/seed-0")]) == ["one", "other"]
    assert name_runs([Path("/a/run")]) == ["run"]
    assert name_runs([Path("/a"), Path("/a/b")]) == ["a", "b"]


def test_networks_of_too_few_units_are_told_of_once() -> None:
    lacking, telling = "", "deep rises towards the output"
    assert sentences._list_found([lacking, lacking], "a trend") == "There are too few units for a trend."
    assert sentences._list_found([telling, lacking], "a trend") == (
        "deep rises towards the output; the others have too few units for a trend."
    )
    assert sentences._list_found([telling], "a trend") == "deep rises towards the output."


@pytest.mark.parametrize(
    ("low", "high", "between"), [(5, 9, [6, 7, 8]), (4, 90, [5, 20, 50]), (1e-6, 1e3, [])]
)
def test_a_logarithmic_axis_has_few_numbers(low: float, high: float, between: list[float]) -> None:
    axes = Figure().subplots()
    axes.plot([low, high])
    logarithmic(axes)
    inside = [place for place in axes.yaxis.get_minorticklocs() if low < place < high]
    assert inside == pytest.approx(between)
