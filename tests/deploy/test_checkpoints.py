"""Models of a run: the best, another one, the weights to begin from, and the page beside the model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import layerwise
from common.config import files
from common.data.holdings import take_stock
from common.errors import ConfigError
from common.models import network
from common.wire.messages import Evaluation
from deploy import cli as command
from deploy.evaluation.evaluator import PulledNetwork
from deploy.runs.directory import RunDirectory
from deploy.runs.model import BEST, MODEL, read_evaluation
from tests.deploy.runs import digits, resolved
from tests.integration.processes import QUICK, Cli

SMALL = {"network.options": {"widths": [8]}, "run.batch_size": 16}
STEP: dict[str, Any] = {**SMALL, "cluster.profile": "synchronous", "run.batches": 60}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each test, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


NETWORK = """\
from torch import nn


def mlp():
    return [nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)]
"""


def evaluation(batches: int, error: float) -> Evaluation:
    return Evaluation(batches, error, error, {}, {"error_percent": error})


def test_the_best_network_is_kept_whatever_comes_later_and_after_a_restart(folder: Path) -> None:
    config = resolved("network.options.widths=[8]", "run.keep_best=true")
    state = {"weight": torch.zeros(2)}
    for part in ([(10, math.nan), (20, 5.0), (30, 3.0), (40, 4.0)], [(50, 3.5), (60, 2.0), (70, 2.0)]):
        directory = RunDirectory(folder / "run")
        for batches, error in part:
            network = PulledNetwork({"weight": state["weight"] + batches}, {}, batches)
            directory.keep(network, evaluation(batches, error), config, digits(), batches)
        directory.close()
        best = read_evaluation(folder / "run" / BEST)
        assert best is not None
        assert load_file(folder / "run" / BEST)["weight"][0] == best.batches == {40: 30, 70: 60}[part[-1][0]]
        assert best == directory.best


def test_without_the_key_no_best_network_is_kept(folder: Path) -> None:
    directory = RunDirectory(folder / "run")
    directory.keep(PulledNetwork({}, {}, 1), evaluation(1, 1.0), resolved(), digits(), 1)
    assert not (folder / "run" / BEST).exists()
    directory.close()


def test_a_full_disk_costs_the_best_network_and_not_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deploy.runs.best.write_file", refuse)
    directory = RunDirectory(folder / "run")
    network = PulledNetwork({}, {}, 1)
    directory.keep(network, evaluation(1, 1.0), resolved("run.keep_best=true"), digits(), 1)
    assert directory.best is None
    assert "best.safetensors: No space left on device; the run goes on" in capsys.readouterr().err
    directory.close()


def test_the_best_network_measures_as_it_did(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # At this rate the error goes up and down.
    keys: dict[str, Any] = {"run.keep_best": True, "run.evaluate_every": 5, "optimizer.learning_rate": 0.3}
    result = layerwise.train(run_dir="run", progress=False, **STEP, **keys)
    best = result.summary["best"]
    assert best["metrics"]["error_percent"] == result.curves["error_percent"].min()
    capfd.readouterr()
    assert command.run(["evaluate", "run", "--checkpoint", BEST, "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert (again["batches"], again["metrics"]) == (best["batches"], best["metrics"])
    state = result.model(BEST).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(folder / "run" / BEST).items())
    assert command.run(["evaluate", "run", "--checkpoint", "none.safetensors"]) == 2
    assert "run.keep_best = true" in capfd.readouterr().err
    assert command.run(["evaluate", "--master", "localhost:1", "--checkpoint", BEST]) == 2
    # A run that starts anew forgets the best network of the earlier one.
    for name in ("summary.json", MODEL):
        (folder / "run" / name).unlink()
    anew = layerwise.train(run_dir="run", progress=False)
    assert anew.summary["best"] == best


@pytest.mark.parametrize("write", [save_file, lambda state, path: torch.save(state, path)])
def test_a_run_begins_from_given_weights(folder: Path, write: Callable[..., None]) -> None:
    first = layerwise.train(run_dir="first", progress=False, **STEP)
    file = folder / ("weights.safetensors" if write is save_file else "weights.pt")
    write(first.model().state_dict(), file)
    config = resolved(f"network.initial={file.name}", "network.options.widths=[8]")
    units = network.build_initial(config, digits().inputs, digits().targets).units
    state = torch.nn.Sequential(*units).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.model().state_dict().items())
    # Hardly a step further, the error is that of the beginning.
    keys = {"run.batches": 2, "optimizer.learning_rate": 1e-9, "network.initial": file}
    second = layerwise.train(progress=False, **(STEP | keys))
    assert abs(second.summary["test_loss"] - first.summary["test_loss"]) < 0.2


def test_the_slaves_of_a_cluster_begin_from_given_weights_and_agree_on_them(cli: Cli, folder: Path) -> None:
    first = layerwise.train(run_dir="first", progress=False, **STEP)
    rest = ["--set", "network.options.widths=[8]", "--set", "optimizer.learning_rate=1e-9"]
    summary = cli.json(
        "train", *QUICK, *rest, "--set", "run.batches=2", "--set", "run.keep_best=true",
        "--set", "network.initial=first/model.safetensors", "--run-dir", "second", "--json",
    )  # fmt: skip
    assert abs(summary["test_loss"] - first.summary["test_loss"]) < 0.2
    assert summary["best"]["batches"] == 2
    assert (folder / "second" / BEST).exists()
    # Weights that are not this network's end the run before its first step.
    wide = ["--set", "network.options.widths=[9]", "--set", "network.initial=first/model.safetensors"]
    done = cli.run("train", *QUICK, *wide)
    assert done.returncode == 2
    assert "0.1.weight is (8, 64) instead of (9, 64)" in done.stderr


def test_other_weights_are_told_apart_by_a_digest(folder: Path) -> None:
    digests = set()
    for value in (0.0, 1.0):
        save_file({"0.weight": torch.full((2,), value)}, folder / "w.safetensors")
        held = take_stock(files.load(None, ["network.initial=w.safetensors"]), digits())
        digests.add(held.files["network.initial w.safetensors"])
    assert len(digests) == 2


class Harmful:
    """Runs code where a pickle is loaded without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda state: {name: each for name, each in state.items() if name != "1.0.bias"}, "lacks 1.0.bias;"),
        (lambda state: {**state, "2.weight": torch.zeros(1)}, "has besides 2.weight;"),
        (lambda state: {**state, "1.0.bias": torch.zeros(3)}, r"1.0.bias is \(3,\) instead of \(10,\)"),
        (
            lambda state: {**state, "1.0.bias": torch.full((10,), math.nan)},
            "1.0.bias has numbers that are not",
        ),
        (
            lambda state: {**state, "1.0.bias": torch.zeros(10).to_sparse()},
            "1.0.bias is .*sparse_coo",
        ),
        (lambda state: {**state, "1.0.bias": torch.zeros(10, device="meta")}, "1.0.bias is .* on meta; save"),
        (lambda state: {**state, "1.0.bias": torch.zeros(10) * 1j}, "1.0.bias is torch.complex64 .*; save"),
        (
            lambda state: {**state, 7: torch.zeros(1), "x": torch.zeros(1)},
            "holds a dict that is no state dict",
        ),
        (lambda state: [1, 2], "holds a list that is no state dict"),
        (
            lambda state: Harmful(),
            "cannot be read: it is torn, or holds more than tensors; give a",
        ),
        (None, "no such file; put it there"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    content: Callable[[dict[str, torch.Tensor]], Any] | None, said: str, folder: Path
) -> None:
    config = resolved("network.initial=weights.pt", "network.options.widths=[8]")
    units = network.build(config, digits().inputs, digits().targets).units
    if content is not None:
        torch.save(content(torch.nn.Sequential(*units).state_dict()), folder / "weights.pt")
    with pytest.raises(ConfigError, match=rf"network.initial: .*weights.pt: {said}"):
        network.build_initial(config, digits().inputs, digits().targets)
    assert not (folder / "harmed").exists()


def test_a_file_of_weights_has_a_known_kind_and_a_place_on_this_machine(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"network.initial: .*must end in .safetensors"):
        files.load(None, ["network.initial=weights.bin"])
    (folder / "code").mkdir()
    for place in (folder, folder / "code"):
        save_file({"0.weight": torch.zeros(1)}, place / "w.pt.safetensors")
    config = files.load(None, ["network.initial=w.pt.safetensors"])
    assert config.network.initial == str(folder / "w.pt.safetensors")
    (folder / "w.pt.safetensors").unlink()
    assert take_stock(config, digits(), folder / "code").files


def test_a_page_about_the_model_stands_beside_it(folder: Path) -> None:
    result = layerwise.train(run_dir="run", progress=False, **(STEP | {"run.keep_best": True}))
    page = (folder / "run" / "MODEL_CARD.md").read_text()
    error = result.summary["test_error_percent"]
    assert f"| test error | {error:.2f} % |" in page
    assert re.search(r"best evaluation \| .* at batch 60", page)
    assert "of 642 numbers" in page
    assert "1,437 for training, 360 for the test" in page
    (toml,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert files.parse(toml, "page") == result.config


def test_the_page_tells_no_folder_of_whoever_trained(folder: Path) -> None:
    (folder / "net.py").write_text(NETWORK)
    layerwise.train(
        run_dir="run", progress=False, **(STEP | {"network.model": "net.py:mlp", "network.options": {}})
    )
    page = (folder / "run" / "MODEL_CARD.md").read_text()
    assert 'model = "net.py:mlp"' in page
    assert "A network `net.py:mlp` of" in page
    assert str(folder) not in page
