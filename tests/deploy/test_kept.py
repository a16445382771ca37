"""run.keep: the network at given batches, with M, in every way to run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import layerwise
from common import synthesizers, tasks
from common.config import files
from common.errors import ConfigError
from common.wire.messages import Evaluation
from deploy import cli as command
from deploy.evaluation.evaluator import PulledNetwork
from deploy.runs.directory import RunDirectory, next_evaluation
from deploy.runs.kept import Kept, find_kept
from deploy.runs.metrics import EVALUATION, read_metrics
from deploy.runs.model import read_evaluation
from tests.deploy.runs import STEP, digits, resolved
from tests.integration.processes import QUICK, Cli

KEPT = {"run.keep": [3, 7, 20], "network.options": {"widths": [8, 8]}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each test, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("simulated", [False, True])
@pytest.mark.parametrize("unlock", ["update", "none", "local"])
def test_a_run_in_one_process_keeps_its_network_at_the_batches(
    simulated: bool, unlock: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keys: dict[str, Any] = STEP | KEPT | {"decoupling.unlock": unlock}
    if simulated:
        keys |= {"cluster.profile": "light", "downpour.n_push": 1}
        # Where a head costs more than its layer, the layers below are a batch ahead when the network is kept.
        keys |= {"decoupling.synthesizer_steps": 1} if unlock != "none" else {}
    result = layerwise.train(run_dir="run", simulated=simulated, progress=False, **keys)
    assert [kept.batch for kept in find_kept(folder / "run")] == [3, 7, 20]
    evaluations = [line for line in read_metrics(folder / "run") if line["kind"] == EVALUATION]
    assert [line["batches"] for line in evaluations] == [3, 7, 10, 20]
    known = read_evaluation(folder / "run" / "kept-7.safetensors")
    assert known is not None
    assert known.batches == 7
    # The last one is the result.
    last = result.model("kept-20.safetensors").state_dict()
    assert all(torch.equal(tensor, last[name]) for name, tensor in result.model().state_dict().items())
    assert not torch.equal(last["0.1.weight"], result.model("kept-7.safetensors").state_dict()["0.1.weight"])
    capfd.readouterr()
    assert command.run(["evaluate", "run", "--checkpoint", "kept-7.safetensors", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["metrics"] == evaluations[1]["metrics"]
    # Every M or head is beside the network, and fits.
    file = folder / "run" / Kept(7).gradients
    assert file.exists() == (unlock != "none")
    if file.exists():
        state = load_file(file)
        task = tasks.build(result.config.task, digits().targets)
        for k in (1, 2):
            module = synthesizers.initial(result.config, k, (8,), task)
            fresh = {name: each.clone() for name, each in module.state_dict().items()}
            own = {name[2:]: each for name, each in state.items() if name.startswith(f"{k}.")}
            module.load_state_dict(own)
            assert any(not torch.equal(own[name], each) for name, each in fresh.items())


@pytest.mark.parametrize("profile", ["light", pytest.param("basic", marks=pytest.mark.slow)])
def test_a_cluster_keeps_its_network_at_the_batches(profile: str, cli: Cli, folder: Path) -> None:
    cli.json(
        "train", *QUICK, "--set", f"cluster.profile={profile}", "--set", "network.options.widths=[8]",
        "--set", "run.batches=40", "--set", "run.keep=[15, 40]", "--run-dir", "run", "--json",
    )  # fmt: skip
    assert [kept.batch for kept in find_kept(folder / "run")] == [15, 40]
    for kept in find_kept(folder / "run"):
        assert "1.v.0.weight" in load_file(folder / "run" / kept.gradients)
    last, final = (load_file(folder / "run" / name) for name in ("kept-40.safetensors", "model.safetensors"))
    assert all(torch.equal(tensor, last[name]) for name, tensor in final.items())


def test_a_resumed_run_keeps_the_batches_that_lack_and_a_rolled_back_one_those_again(folder: Path) -> None:
    config = resolved("run.keep=[10, 20]")

    def go_on(*through: int) -> list[float]:
        directory = RunDirectory(folder / "run")
        for batches in through:
            network = PulledNetwork({"weight": torch.full((1,), float(batches))}, {}, batches)
            directory.keep(network, Evaluation(batches, None, math.nan), config, digits(), batches)
        directory.close()
        kept = find_kept(folder / "run")
        return [float(load_file(folder / "run" / each.model)["weight"]) for each in kept]

    assert go_on(5, 12) == [12]
    assert go_on(14, 25, 30) == [12, 25]
    assert go_on(8, 11, 22) == [11, 22]


def test_a_full_disk_costs_a_kept_network_until_the_next_evaluation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    config, network = resolved("run.keep=[1]"), PulledNetwork({"weight": torch.zeros(1)}, {}, 1)
    directory = RunDirectory(folder / "run")
    with monkeypatch.context() as patched:
        patched.setattr("deploy.runs.kept.write_file", refuse)
        directory.keep(network, Evaluation(1), config, digits(), 1)
    assert "kept-1.safetensors: No space left on device; the run goes on" in capsys.readouterr().err
    directory.keep(network, Evaluation(2), config, digits(), 2)
    assert find_kept(folder / "run") == [Kept(1)]
    directory.close()


def test_a_run_that_starts_anew_forgets_what_an_earlier_one_has_kept(folder: Path) -> None:
    layerwise.train(run_dir="run", progress=False, **(STEP | {"run.keep": [5]}))
    directory = folder / "run"
    first = {name: tensor.clone() for name, tensor in load_file(directory / Kept(5).model).items()}
    (directory / "summary.json").unlink()
    (directory / Kept(5).model).write_bytes(b"of another run")
    layerwise.train(run_dir="run", progress=False)
    again = load_file(directory / Kept(5).model)
    assert all(torch.equal(tensor, first[name]) for name, tensor in again.items())


def test_evaluations_are_due_at_the_batches_to_keep() -> None:
    config = resolved("run.keep=[3, 20]", "run.evaluate_every=15")
    assert [next_evaluation(batches, config) for batches in (0, 3, 15, 20, 30)] == [3, 15, 20, 30, 45]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[5, 3]", "must ascend without repeats"),
        ("[3, 3]", "must ascend without repeats"),
        ("[0]", "0 is too small; at least 1"),
        ("[900]", "900 is past the run's 800 batches; give at most 800"),
        ("7", "expected a list"),
        ("[1.5]", "expected a list"),
    ],
)
def test_batches_that_cannot_be_kept_are_refused(
    value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"run\.keep"):
        files.load(None, [f"run.keep={value}"])
    assert command.run(["train", "--set", f"run.keep={value}"]) == 2
    assert said in capsys.readouterr().err
