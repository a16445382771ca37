"""`simulate`, `compare` and the synchronous profile, as a user runs them."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deploy.comparison.variants import read
from tests.integration.processes import ROOT, Cli

FILE = """
[run]
name = "tiny"
batches = 30
batch_size = 16
evaluate_every = 10
[network]
options = { widths = [8] }
[compare]
seeds = 2
[compare.variants."back-propagation"]
cluster.profile = "synchronous"
decoupling.unlock = "none"
[compare.variants."vfbn <in 2>"]
decoupling.unlock = "update"
"""
SUMMED = ("test_error_percent", "staleness", "delay", "versions", "test_loss", "samples_per_second")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_simulate_says_what_so_many_slaves_would_do(cli: Cli) -> None:
    told = cli.json("simulate", "--slaves", "2", "--slaves", "40", "--set", "run.batches=100", "--json")
    few, many = told["predictions"]
    assert (few["slaves"], many["slaves"]) == (2, 40)
    assert many["staleness"]["p99"] > few["staleness"]["p99"]
    assert set(many["utilization"]) == {"1", "2", "3"}


@pytest.mark.slow
def test_simulate_with_training_leaves_the_files_of_a_run_and_the_same_ones_again(cli: Cli) -> None:
    quick = ["--set", "run.batches=40", "--set", "network.options.widths=[8]", "--train", "--json"]
    one, other = (cli.json("simulate", *quick, "--run-dir", name) for name in ("one", "other"))
    assert {name: one[name] for name in SUMMED} == {name: other[name] for name in SUMMED}
    assert one["slaves"] == 2
    model = "model.safetensors"
    tensors, same = (load_file(cli.folder / name / model) for name in ("one", "other"))
    assert all(torch.equal(tensor, same[name]) for name, tensor in tensors.items())


def test_the_synchronous_profile_is_a_run_like_any_other(cli: Cli) -> None:
    profile = ["--set", "cluster.profile=synchronous", "--set", "run.batches=60"]
    summary = cli.json("train", *profile, "--run-dir", "run", "--json")
    assert (summary["profile"], summary["slaves"], summary["lost_batches"]) == ("synchronous", 0, 0)
    names = {path.name for path in (cli.folder / "run").iterdir()}
    assert {"config.toml", "summary.json", "metrics.jsonl", "model.safetensors", "plots"} <= names
    again = cli.json("evaluate", "run", "--json")
    assert again["test_error_percent"] == summary["test_error_percent"]


def test_an_interrupted_synchronous_run_ends_with_130_and_can_be_begun_anew(cli: Cli) -> None:
    endless = ["--set", "cluster.profile=synchronous", "--set", "run.batches=100000", "--run-dir", "run"]
    process = cli.start("train", *endless)
    cli.wait_for(process, "batch", "stderr")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "starts it anew" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--set", "cluster.profile=synchronous", "--set", "downpour.replicas=2"], "downpour"),
        (["simulate", "--slaves", "9000"], "at most 1000"),
        (["simulate", "--train", "--measure"], "omit"),
        (["simulate", "--run-dir", "x"], "--train"),
        (["simulate", "--set", "simulation.loss=2"], "simulation.loss"),
        (["train", "tiny.toml"], "layerwise compare"),
        (["compare", "plain.toml"], "has no variants"),
        (["compare", "plain.toml", "--over", "decoupling.unlock"], "--over"),
        (["compare", "plain.toml", "--over", "decoupling.unlock=none,never"], "never"),
        (["master", "sync.toml", "--state-dir", "s"], "synchronous has no master"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: list[str], said: str, cli: Cli, file: Path) -> None:
    (file.parent / "plain.toml").write_text("[run]\nbatches = 10\n", encoding="utf-8")
    (file.parent / "sync.toml").write_text('[cluster]\nprofile = "synchronous"\n', encoding="utf-8")
    done = cli.run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_compare_is_interrupted_goes_on_and_leaves_a_page_that_needs_nothing_else(
    cli: Cli, file: Path
) -> None:
    process = cli.start("compare", str(file), "--out", "out")
    cli.wait_for(process, "1/4", "stderr")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--out out" in err
    kept = {path: path.stat().st_mtime_ns for path in (cli.folder / "out").rglob("summary.json")}
    assert kept
    result = cli.json("compare", str(file), "--out", "out", "--jobs", "2", "--json")
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    baseline, vfbn = result["variants"]
    assert [run["seed"] for run in vfbn["runs"]] == [0, 1]
    assert len(vfbn["curve"]) == 3
    assert (baseline["slaves"], vfbn["slaves"]) == (0, 2)
    page = (cli.folder / "out" / "compare.html").read_text(encoding="utf-8")
    assert "vfbn &lt;in 2&gt;" in page
    assert "vfbn <in" not in page
    assert page.count("data:image/png;base64,") == 2 * page.count("<figure>") == 10
    assert not re.search(r'(src|href|srcset)="(?!data:)', page)
    other = cli.run("compare", str(file), "--out", "out", "--set", "run.batches=20")
    assert other.returncode == 2
    assert "another configuration" in other.stderr


def test_over_is_a_product_of_values(file: Path) -> None:
    over = ["optimizer.learning_rate=1e-3,1e-2", "network.options.widths=[4],[5, 6]"]
    comparison = read(file, ["run.batches=20"], over, 1, "synchronous")
    variants = {variant.name: variant.config for variant in comparison.variants}
    assert len(variants) == 8
    chosen = variants["back-propagation, optimizer.learning_rate=1e-2, network.options.widths=[5, 6]"]
    assert (chosen.optimizer.learning_rate, chosen.network.options) == (1e-2, {"widths": [5, 6]})
    assert {config.cluster.profile for config in variants.values()} == {"synchronous"}
    assert comparison.variants[0].with_seed(3).run.seed == 3


def test_a_variant_s_options_replace_the_file_s_and_its_other_keys_join_them(file: Path) -> None:
    more = (
        "[compare.variants.other]\nnetwork.options = { batch_norm = false }\noptimizer.learning_rate = 0.5\n"
    )
    file.write_text(FILE + more, encoding="utf-8")
    other = read(file, [], [], None, "driver").variants[-1].config
    assert other.network.options == {"batch_norm": False}
    assert (other.optimizer.learning_rate, other.optimizer.name) == (0.5, "adam")


@pytest.mark.parametrize(
    ("name", "variants", "seeds"),
    [
        ("mnist-methods", 18, 3),
        ("mnist-conv", 3, 3),
        ("mnist-cluster", 8, 1),
        ("mnist-lead", 4, 1),
        ("dissimilarity", 3, 1),
        ("linear-mse", 8, 1),
        ("linear-log", 12, 1),
        ("depths", 16, 1),
        ("cifar10-resnet110", 5, 1),
        ("cifar10-wrn", 4, 1),
        ("vfbn-resnet110", 5, 1),
    ],
)
def test_every_variant_of_the_examples_can_be_read(name: str, variants: int, seeds: int) -> None:
    comparison = read(ROOT / "examples" / f"{name}.toml", [], [], None, "driver")
    assert (len(comparison.variants), comparison.seeds) == (variants, seeds)
