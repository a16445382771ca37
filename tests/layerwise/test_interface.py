"""The Python interface: the same runs as the command line's, given and read as Python objects."""

from __future__ import annotations

import doctest
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import layerwise
from deploy.interface import calls
from deploy.interface.values import configure
from tests.deploy.runs import STEP
from tests.integration.processes import ROOT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each test, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(file: Path) -> ModuleType:
    """Import a file as a user's module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("module", [layerwise, calls], ids=lambda module: module.__name__)
def test_the_examples_of_the_docstrings_are_true(module: ModuleType) -> None:
    tested = doctest.testmod(module)
    assert tested.attempted > 0
    assert tested.failed == 0


def test_every_public_name_has_documentation_and_types() -> None:
    for name in layerwise.__all__:
        thing = getattr(layerwise, name)
        assert thing.__doc__
        if not isinstance(thing, type):
            assert set(thing.__annotations__) >= {"return"}


def test_a_result_has_summary_curves_and_a_plain_model(folder: Path) -> None:
    result = layerwise.train(run_dir="run", progress=False, **STEP)
    assert result.curves["batches"].tolist() == [10.0, 20.0]
    assert result.curves["error_percent"][-1] == result.summary["test_error_percent"]
    assert result.metrics["test_loss"] == result.summary["test_loss"]
    model = result.model()
    assert type(model) is torch.nn.Sequential
    assert not model.training
    saved = load_file(folder / "run" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert model(torch.zeros(5, 1, 8, 8)).shape == (5, 10)
    again = layerwise.load("run")
    assert again.summary == result.summary
    assert again.config.run.batches == 20
    with pytest.raises(layerwise.ConfigError, match="has no heartbeats of layer 3"):
        result.telemetry(3)


@pytest.mark.slow
def test_a_cluster_trains_functions_of_an_imported_module(capfd: pytest.CaptureFixture[str]) -> None:
    network = imported(ROOT / "examples" / "my_network.py")
    result = layerwise.train(
        run_dir="run",
        **{
            "network.model": network.build,
            "network.options": {"channels": np.int64(4)},
            "network.layers": 2,
            "run.batches": 30,
            "cluster.heartbeat_seconds": 0.4,
            "cluster.misses": 5,
        },
    )
    assert result.config.network.model == f"{ROOT / 'examples' / 'my_network.py'}:build"
    assert result.summary["slaves"] == 2
    telemetry = result.telemetry(2)
    assert telemetry["next_batch"][-1] == 30
    assert telemetry["loss"].dtype == np.float64
    assert isinstance(result.model()[1], torch.nn.Module)
    out, err = capfd.readouterr()
    assert out == ""
    assert "training 2 layers" in err


def test_a_configuration_comes_from_keys_a_file_or_another_configuration(folder: Path) -> None:
    (folder / "run.toml").write_text("[run]\nbatches = 7\n")
    for source in (folder / "run.toml", "run.toml", layerwise.Config()):
        config = configure(source, {"run.seed": 3, "data.dataset": "digits"})
        assert (config.run.batches, config.run.seed) == (
            800 if isinstance(source, layerwise.Config) else 7,
            3,
        )
    assert configure(None, {"run.name": "true"}).run.name == "true"
    assert configure(None, {"downpour.replicas": (2, 1, 1)}).downpour.replicas == [2, 1, 1]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"batches": 3}, 'batches: no such argument; .*did you mean "run.batches"'),
        ({"nonsense": 3}, "nonsense: no such argument"),
        ({"run.batches": 0}, "keyword: run.batches: 0"),
        ({"run.batchse": 3}, 'keyword: run.batchse: unknown key; did you mean "run.batches"'),
        ({"run.batches": None}, "run.batches: NoneType is no value of TOML; .*leave out a key"),
        ({"network.model": lambda: 3}, "network.model: .* give a function of the top level"),
        ({"network.model": len}, "network.model: .* stands in no file"),
    ],
)
def test_a_value_that_no_run_has_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(layerwise.ConfigError, match=said):
        layerwise.train(**keys)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: layerwise.train({"run.batches": 3}), r"config: expected the path .* keys are given as"),  # type: ignore[arg-type]
        (lambda: layerwise.train(track="mlflow"), r"track: expected a list, .* give \['mlflow'\]"),
        (lambda: layerwise.train(run_dir=__file__), r"test_interface.py: File exists; give another path"),
        (lambda: layerwise.train(on="moon"), "on: 'moon' is not one of local, ray"),
        (lambda: layerwise.train(cpus=2), "cpus: has no meaning with --on local; add --on ray"),
        (lambda: layerwise.train(on="ray", cpus=0), "cpus: expected a whole number, at least 1, got 0"),
        (lambda: layerwise.train(on="ray", gpus=-1), "gpus: expected a whole number, at least 0, got -1"),
        (lambda: layerwise.train(on="ray", memory="much"), "memory much: is no number of bytes"),
        (lambda: layerwise.train(on="ray", simulated=True), "on: 'ray' has no processes to place if simul"),
        (lambda: layerwise.simulate(slaves=2), r"slaves: expected a list, got 2; give \[2\]"),  # type: ignore[arg-type]
        (lambda: layerwise.simulate(slaves=[2, 0]), "slaves: expected a whole number, at least 1, got 0"),
        (lambda: layerwise.compare(seeds=0), "seeds: expected a whole number, at least 1, got 0"),
        (lambda: layerwise.compare(jobs=1.5), "jobs: expected a whole number, at least 1, got 1.5"),  # type: ignore[arg-type]
        (lambda: layerwise.compare(place="moon"), "place: 'moon' is not one of cluster, driver"),  # type: ignore[arg-type]
        (lambda: layerwise.compare(over={"run.seed": []}), "over: run.seed: the list of values .* is empty"),
        (lambda: layerwise.compare(over={"run.name": "ab"}), "over: run.name: expected a list, got 'ab'"),
    ],
)
def test_an_argument_that_no_command_would_take_is_refused_before_work(
    call: Callable[[], object], said: str
) -> None:
    with pytest.raises(layerwise.ConfigError, match=said):
        call()


def test_a_script_that_trains_when_it_is_imported_is_refused(folder: Path) -> None:
    script = folder / "script.py"
    script.write_text(
        "import layerwise\nfrom torch import nn\n"
        "def build(): return [nn.Flatten(), nn.Linear(64, 10)]\n"
        "layerwise.train(**{'network.model': build, 'network.cuts': [], 'run.batches': 2})\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 1
    assert 'put the call under if __name__ == "__main__"' in done.stderr


def test_a_call_that_failed_leaves_its_folder_free(folder: Path) -> None:
    (folder / "run").mkdir()
    with pytest.raises(layerwise.ConfigError) as caught:
        layerwise.train(run_dir="run", progress=False, **(STEP | {"network.layers": 99}))
    assert layerwise.train(run_dir="run", progress=False, **STEP).summary["batches"] == 20
    assert "network.layers" in str(caught.value)
    with pytest.raises(layerwise.ConfigError, match="its run is finished"):
        layerwise.train(run_dir="run")


def test_any_thread_may_train() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(layerwise.train(progress=False, **STEP)))
    thread.start()
    thread.join()
    assert results[0].curves["batches"][-1] == 20


def test_a_comparison_has_its_variants_and_their_runs() -> None:
    compared = layerwise.compare(
        over={"decoupling.unlock": ["none", "update"]}, place="synchronous", out="compared", **STEP
    )
    assert list(compared.variants) == ["decoupling.unlock=none", "decoupling.unlock=update"]
    (run,) = compared.runs("decoupling.unlock=none")
    assert run.curves["batches"].tolist() == [10.0, 20.0]
    assert run.config.decoupling.unlock == "none"
    with pytest.raises(layerwise.ConfigError, match="is no variant"):
        compared.runs("other")
