"""`layerwise train` from end to end: real processes, sockets, files and data."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.common.data.whole import whole
from tests.integration.processes import COMPILES, QUICK, ROOT, Cli, until

KEYS = """
    name task dataset model profile synthesis unlock gradient alignment input average layers slaves batches
    batch_size wall_seconds samples_per_second test_error_percent test_loss metrics best staleness delay
    pushes pulls versions restarts lost_batches lost_states levels peak_rss_bytes cpu_seconds
    waiting_fraction
"""

# Imports nothing of the project: the plain network of the default run, and its test set from scikit-learn.
PLAIN = """
import json, sys
import numpy as np, torch
from safetensors import safe_open
from torch import nn

with safe_open(sys.argv[1], "pt") as file:
    state = {name: file.get_tensor(name) for name in file.keys()}
    inputs = json.loads(file.metadata()["inputs"])
hidden = lambda i, o: nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU())
first = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU())
network = nn.Sequential(first, hidden(256, 256), nn.Sequential(nn.Linear(256, 10)))
network.load_state_dict(state)
test = np.load(sys.argv[2])
x = (torch.tensor(test["x"]).float() * inputs["scale"] - inputs["mean"][0]) / inputs["std"][0]
wrong = (network.eval()(x).argmax(1) != torch.tensor(test["y"])).float().mean()
assert not [name for name in sys.modules if name.split(".")[0] in ("common", "deploy", "master", "slave")]
print(100 * float(wrong))
"""


def test_the_default_run_learns_digits_and_leaves_its_files(cli: Cli) -> None:
    done = cli.run("train", "--run-dir", "run", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert list(summary) == KEYS.split()
    assert summary["test_error_percent"] < 5
    assert summary["layers"] == summary["slaves"] == 3
    assert summary["lost_batches"] == summary["restarts"] == 0
    assert summary["versions"]["1/weights"] == summary["batches"] / 10
    assert summary["delay"]["max"] > 0
    run = cli.folder / "run"
    assert json.loads((run / "summary.json").read_text()) == summary
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("evaluation") >= 2
    assert kinds.count("heartbeat") >= 3
    assert {plot.name for plot in (run / "plots").iterdir()} == {"error.png", "throughput.png", "delay.png"}

    assert cli.json("evaluate", "run", "--json")["test_error_percent"] == summary["test_error_percent"]
    assert _plain_error(run / "model.safetensors", cli.folder) == pytest.approx(summary["test_error_percent"])
    assert cli.run("export", "run", "--output", "copy.safetensors").returncode == 0
    assert _plain_error(cli.folder / "copy.safetensors", cli.folder) == pytest.approx(
        summary["test_error_percent"]
    )

    refused = cli.run("train", "--run-dir", "run")
    assert refused.returncode == 2
    assert "finished" in refused.stderr


@pytest.mark.slow
def test_a_run_is_measured_and_saved_with_averaged_weights(cli: Cli) -> None:
    keys = ["run.average=ema", "run.batches=60", "run.evaluate_every=20", "run.keep_best=true"]
    sets = [part for setting in keys for part in ("--set", setting)]
    summary = cli.json("train", *QUICK, *sets, "--run-dir", "run", "--json")
    assert summary["average"] == "ema"
    lines = map(json.loads, (cli.folder / "run" / "metrics.jsonl").read_text().splitlines())
    evaluated = [line for line in lines if line["kind"] == "evaluation"]
    assert all(set(line["versions"]) == {f"{k}/average" for k in (1, 2, 3)} for line in evaluated)
    last = {name.replace("average", "weights"): at for name, at in evaluated[-1]["versions"].items()}
    assert last == {name: at for name, at in summary["versions"].items() if name in last}
    for model, loss in (("model", summary["test_loss"]), ("best", summary["best"]["test_loss"])):
        again = cli.json("evaluate", "run", "--checkpoint", f"{model}.safetensors", "--json")
        assert again["test_loss"] == pytest.approx(loss)
    assert "| weights | exponential moving average" in (cli.folder / "run" / "MODEL_CARD.md").read_text()


def _plain_error(model: Path, folder: Path) -> float:
    import numpy as np

    from common.config.data import DataConfig
    from common.data import datasets

    data = whole(datasets.load(DataConfig()))
    np.savez(folder / "test.npz", x=data.test_x, y=data.test_y)
    script = [sys.executable, "-I", "-c", PLAIN, str(model), str(folder / "test.npz")]
    done = subprocess.run(script, capture_output=True, text=True, check=True, cwd="/")
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        ["decoupling.unlock=none"],
        ["decoupling.gradient=cdni"],
        ["decoupling.unlock=delayed"],
        ["decoupling.unlock=local"],
        ["decoupling.unlock=full"],
        ["decoupling.mix_true=true", "decoupling.step_probability=0.5", "decoupling.fallback_cosine=0.2"],
        ["network.model=cnn", "network.options={channels=[8, 8]}", "run.batches=600"],
    ],
)
def test_every_method_learns_in_a_real_cluster(cli: Cli, method: list[str]) -> None:
    # Crowded cores are no failure.
    common = ["run.batches=400", "cluster.misses=10"]
    sets = [part for setting in [*common, *method] for part in ("--set", setting)]
    summary = cli.json("train", *QUICK, *sets, "--json", timeout=300)
    assert summary["test_error_percent"] < 12
    assert summary["lost_batches"] == 0
    if summary["unlock"] == "none":
        assert summary["delay"] == {"p50": 0, "p99": 0, "max": 0}
        assert summary["gradient"] is None


@pytest.mark.parametrize("layers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_layers_times_replicas_learn_under_an_outer_optimizer(cli: Cli, layers: int) -> None:
    """One layer with replicas is asynchronous data parallelism."""
    keys = [
        f"network.layers={layers}", "downpour.replicas=2", "downpour.server_optimizer=nesterov",
        "downpour.precision=int8", "downpour.n_push=auto", "downpour.fragments=2",
        "run.batches=400", "cluster.misses=10",
    ]  # fmt: skip
    summary = cli.json("train", *[part for key in keys for part in ("--set", key)], "--json", timeout=300)
    assert (summary["layers"], summary["slaves"]) == (layers, 2 * layers)
    assert summary["versions"]["1/weights"] >= 4
    assert summary["test_error_percent"] < 20
    assert summary["lost_batches"] == summary["restarts"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "shards"),
    [
        (["decoupling.unlock=delayed", "decoupling.shrink=0.9"], []),
        (["decoupling.unlock=local", "downpour.replicas=[2, 1, 1]"], ["1/gradient", "2/gradient"]),
        (
            ["decoupling.unlock=full", "downpour.replicas=[1, 2, 1]", "downpour.push=gradient"],
            ["1/gradient", "2/gradient", "2/input", "3/input"],
        ),
        (["decoupling.mix_true=true", "decoupling.fallback_cosine=0.9"], ["1/gradient", "2/gradient"]),
    ],
    ids=["delayed", "local", "full", "mixed"],
)
def test_every_unlock_goes_through_a_run_of_real_processes(
    cli: Cli, method: list[str], shards: list[str]
) -> None:
    small = [
        "run.batches=40", "run.batch_size=32", "network.options={widths=[16, 16]}", "downpour.n_push=5",
        "cluster.heartbeat_seconds=2", "cluster.misses=10",
    ]  # fmt: skip
    sets = [part for setting in [*small, *method] for part in ("--set", setting)]
    summary = cli.json("train", *sets, "--json", timeout=300)
    assert set(summary["versions"]) == {*shards, *(f"{k}/weights" for k in (1, 2, 3))}
    assert all(summary["versions"][f"{k}/weights"] > 0 for k in (1, 2, 3))
    assert summary["restarts"] == 0
    assert summary["lost_batches"] == 0
    assert (summary["input"] == "mlp") == (summary["unlock"] == "full")
    assert (summary["gradient"] == "vfbn") == (summary["unlock"] in ("full", "update"))


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "wire"), [("light", "int8"), ("basic", "bfloat16")])
def test_a_run_with_narrow_messages_learns(cli: Cli, profile: str, wire: str) -> None:
    settings = ["run.batches=400", f"cluster.profile={profile}", f"cluster.wire={wire}"]
    summary = cli.json("train", *QUICK, *(part for each in settings for part in ("--set", each)), "--json")
    assert summary["profile"] == profile
    assert summary["test_error_percent"] < 12
    assert summary["lost_batches"] == 0


def test_a_users_own_network_trains(cli: Cli) -> None:
    network = f"network.model={ROOT}/examples/my_network.py:build"
    summary = cli.json(
        "train", *QUICK, "--set", network, "--set", "network.layers=2", "--set", "run.batches=200", "--json"
    )
    assert summary["layers"] == 2
    assert summary["test_error_percent"] < 25


@pytest.mark.slow
def test_a_users_own_data_train(cli: Cli) -> None:
    data = f"data.dataset={ROOT}/examples/my_data.py:spirals"
    summary = cli.json("train", *QUICK, "--set", data, "--set", "run.batches=400", "--json")
    assert summary["test_error_percent"] < 20


def test_the_examples_are_short() -> None:
    for example in (ROOT / "examples").glob("my_*.py"):
        assert len(example.read_text().splitlines()) < 30


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_was_learned_and_goes_on(cli: Cli) -> None:
    process = cli.start("train", *QUICK, "--set", "run.batches=1000", "--run-dir", "run")
    cli.wait_for(process, "test error", "stderr")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "layerwise train --run-dir run" in errors
    assert cli.processes() == []
    summary = cli.json("train", "--run-dir", "run", "--json")
    assert summary["test_error_percent"] < 8
    # Taken up where it was left: a second start from nothing would push as often again.
    assert 80 <= summary["versions"]["1/weights"] <= 110
    assert summary["lost_batches"] < 100


@pytest.mark.slow
def test_a_killed_slave_and_a_killed_master_are_started_again(cli: Cli) -> None:
    process = cli.start("train", *QUICK, "--set", "run.batches=2500", "--run-dir", "run", "--json")
    cli.wait_for(process, "test error", "stderr")
    cli.of_kind("slave")[1].kill()
    cli.wait_for(process, "slave-2 was killed by signal 9; restarting it", "stderr")
    cli.wait_for(process, "test error", "stderr")
    cli.of_kind("master")[0].kill()
    cli.wait_for(process, "master was killed by signal 9; restarting it", "stderr")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    summary = json.loads(out)
    assert summary["restarts"] == 2
    assert summary["test_error_percent"] < 8


@pytest.mark.slow
def test_served_synthesis_goes_on_after_a_killed_slave_and_a_killed_master(cli: Cli) -> None:
    served = ["--set", "cluster.synthesis=master", "--set", "run.batches=1200"]
    process = cli.start("train", *QUICK, *served, "--run-dir", "run", "--json")
    cli.wait_for(process, "test error", "stderr")
    cli.of_kind("slave")[0].kill()
    cli.wait_for(process, "slave-1 was killed by signal 9; restarting it", "stderr")
    cli.wait_for(process, "test error", "stderr")
    cli.of_kind("master")[0].kill()
    cli.wait_for(process, "master was killed by signal 9; restarting it", "stderr")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    summary = json.loads(out)
    assert (summary["synthesis"], summary["restarts"]) == ("master", 2)
    assert summary["test_error_percent"] < 8
    # M learned on nearly every batch, and all that it learned at the end is in its shard.
    assert 100 < summary["versions"]["1/gradient"] <= 125


@pytest.mark.slow
@pytest.mark.parametrize(("goes_on", "batches"), [(False, 1200), (True, 4000)])
def test_a_slave_that_hangs_is_relieved_and_waits_as_a_spare_if_it_goes_on(
    cli: Cli, goes_on: bool, batches: int
) -> None:
    process = cli.start("train", *QUICK, "--set", f"run.batches={batches}", "--run-dir", "run", "--json")
    cli.wait_for(process, "test error", "stderr")
    hanging = next(slave for slave in cli.of_kind("slave") if "layer 2 of 3" in _said(slave))
    hanging.suspend()
    cli.wait_for(process, "layer 2 has no slave, and none has died: one hangs; started slave-4", "stderr")
    if goes_on:
        until(lambda: "layer 2 of 3" in (cli.folder / "run" / "logs" / "slave-4.log").read_text())
        hanging.resume()
        until(lambda: "waiting to replace one" in _said(hanging))
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    summary = json.loads(out)
    assert summary["restarts"] == 1
    assert summary["test_error_percent"] < 10
    lines = (cli.folder / "run" / "state" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    failed, replaced = (next(e for e in events if e["event"] == what) for what in ("failed", "replaced"))
    assert failed["layer"] == replaced["layer"] == 2
    assert f"incarnation {failed['incarnation']}, {failed['slave']}: failed, silent for" in replaced["why"]


def _said(process: psutil.Process) -> str:
    """What a process of a cluster has written to its log."""
    return Path(f"/proc/{process.pid}/fd/1").read_text()


def test_nothing_outlives_a_killed_train(cli: Cli) -> None:
    process = cli.start("train", *QUICK, "--set", "run.batches=100000")
    until(lambda: len(cli.of_kind("slave")) == 3)
    process.kill()
    until(lambda: not cli.processes(), 20)


@pytest.mark.slow
@pytest.mark.skipif(not COMPILES, reason="no C++ compiler, or not Python's headers")
def test_a_layer_that_is_compiled_learns_as_the_others(cli: Cli) -> None:
    run = ["--run-dir", "run", *QUICK, "--set", "network.layers=2", "--set", "cluster.compile=[true,false]"]
    done = cli.run("train", "--json", *run)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test_error_percent"] < 10
    said = [log.read_text() for log in (cli.folder / "run" / "logs").iterdir() if "slave" in log.name]
    assert sum("compiling layer 1" in log for log in said) == 1
    assert not any("compiling layer 2" in log for log in said)


@pytest.mark.slow
def test_a_layer_that_cannot_be_compiled_is_said_to_be_so(cli: Cli) -> None:
    cli.environment |= {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(cli.folder / "compiled")}
    done = cli.run("train", *QUICK, "--set", "network.layers=2", "--set", "cluster.compile=[false,true]")
    assert done.returncode == 2, done.stderr
    assert "cluster.compile: layer 2 cannot be compiled here" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
