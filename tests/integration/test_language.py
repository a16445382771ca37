"""Language models through real processes: every unlock in every profile, generate, export."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from common.config.unlocks import UNLOCKS
from deploy.evaluation.finished import load_finished
from tests.integration.processes import QUICK, ROOT, Cli

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

LINES = ["the cat sat on the mat", "a dog ran to the cat", "the mat lay on the floor", "so the dog sat too"]
MODEL = ["--set", "network.model=gpt", "--set", "network.options={width=16,heads=2,blocks=2}"]


@pytest.fixture
def text(cli: Cli) -> list[str]:
    """Settings of a run on a small text."""
    (cli.folder / "text.txt").write_text("\n".join(LINES * 60))
    data = ["--set", "data.dataset=text", "--set", "data.path=text.txt", "--set", "data.tokens=characters"]
    return [*QUICK, *data, "--set", "data.context=16", "--set", "run.batch_size=8"]


@pytest.mark.parametrize("profile", ["light", "basic", "synchronous"])
@pytest.mark.parametrize("unlock", UNLOCKS)
def test_a_small_gpt_learns_under_every_unlock_in_every_profile(
    cli: Cli, text: list[str], unlock: str, profile: str
) -> None:
    more = ["--set", f"decoupling.unlock={unlock}", "--set", f"cluster.profile={profile}"]
    more += ["--set", "run.batches=60", "--set", "network.layers=2", "--set", "optimizer.name=adamw"]
    # Attention has matrices that feedback alignment does not know.
    more += ["--set", "decoupling.alignment=direct"] * UNLOCKS[unlock].aligns
    summary = cli.json("train", *text, *MODEL, *more, "--json")
    assert summary["layers"] == 2
    assert summary["test_error_percent"] is None
    # Of 20 equally likely characters: 4.3 bits.
    assert 0 < summary["metrics"]["bits_per_token"] < 4.2
    assert summary["metrics"]["bits_per_character"] == pytest.approx(summary["metrics"]["bits_per_token"])


@pytest.mark.parametrize(
    ("model", "unlock", "profile"), [("lstm", "update", "light"), ("gru", "delayed", "basic")]
)
def test_a_small_recurrent_network_learns_on_windows_of_text(
    cli: Cli, text: list[str], model: str, unlock: str, profile: str
) -> None:
    more = ["--set", f"network.model={model}", "--set", "network.options={width=16,depth=2,embedding=8}"]
    more += ["--set", f"decoupling.unlock={unlock}", "--set", f"cluster.profile={profile}"]
    more += ["--set", "run.batches=60", "--set", "network.layers=2", "--set", "optimizer.learning_rate=0.01"]
    summary = cli.json("train", *text, *more, "--json")
    assert (summary["model"], summary["layers"]) == (model, 2)
    # Of 20 equally likely characters: 4.3 bits.
    assert 0 < summary["metrics"]["bits_per_character"] < 4.0


def test_a_language_run_generates_and_its_export_is_used_as_the_document_says(
    cli: Cli, text: list[str]
) -> None:
    # Long enough for every word to be known by heart, whatever the machine rounds.
    more = [
        "--set",
        "cluster.profile=synchronous",
        "--set",
        "decoupling.unlock=none",
        "--set",
        "run.batches=600",
    ]
    model = ["--set", "network.model=gpt", "--set", "network.options={width=32,heads=2,blocks=2}"]
    more += ["--set", "optimizer.learning_rate=0.003", "--set", "optimizer.schedule=cosine"]
    assert cli.run("train", *text, *model, *more, "--run-dir", "run").returncode == 0
    (cli.folder / "text.txt").unlink()

    def generated(*options: str) -> dict[str, object]:
        return cli.json("generate", "run", "--prompt", "the c", "--tokens", "12", *options, "--json")

    greedy = generated("--temperature", "0")
    assert str(greedy["text"]).startswith("the cat")
    assert len(str(greedy["text"])) == len("the c") + 12
    assert generated("--temperature", "0")["text"] == greedy["text"]
    assert (
        generated("--seed", "3", "--top-k", "4")["text"] == generated("--seed", "3", "--top-k", "4")["text"]
    )
    said = cli.run("generate", "run", "--prompt", "the c", "--tokens", "3", "--temperature", "0")
    assert (said.returncode, said.stdout) == (0, str(greedy["text"])[:8] + "\n")
    refused = cli.run("generate", "run", "--prompt", "the §")
    assert refused.returncode == 2
    assert "--prompt: the text holds '§'" in refused.stderr


def test_a_run_without_text_generates_nothing(cli: Cli) -> None:
    tiny = [
        "--set",
        "cluster.profile=synchronous",
        "--set",
        "run.batches=5",
        "--set",
        "network.options.widths=[8]",
    ]
    assert cli.run("train", *tiny, "--run-dir", "run").returncode == 0
    refused = cli.run("generate", "run", "--prompt", "a")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert 'data.dataset = "digits" of this run has no text' in refused.stderr


def test_an_exported_gpt_is_used_as_the_document_says(cli: Cli, text: list[str]) -> None:
    large = ["--set", "network.model=gpt", "--set", "network.options={width=128,heads=4,blocks=4}"]
    more = [
        "--set",
        "cluster.profile=synchronous",
        "--set",
        "decoupling.unlock=none",
        "--set",
        "run.batches=2",
    ]
    assert cli.run("train", *text, *large, *more, "--run-dir", "run").returncode == 0
    assert cli.run("export", "run", "--output", "model.safetensors").returncode == 0
    _, block, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "model.md").read_text(), re.DOTALL)
    script = block + "\ntorch.save((tokens, logits.detach()), 'logits.pt')\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=cli.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tokens, logits = torch.load(cli.folder / "logits.pt", weights_only=True)
    run = load_finished(cli.folder / "run", cli.folder / "text.txt", None)
    run.evaluator.network.load_state_dict(run.state)
    with torch.no_grad():
        torch.testing.assert_close(logits, run.evaluator.network(tokens))


@pytest.mark.parametrize(
    ("profile", "unlock", "predictor"),
    [("light", "update", None), ("basic", "full", "mlp"), ("light", "full", "causal")],
)
def test_the_master_serves_synthesis_of_tokens(
    cli: Cli, text: list[str], profile: str, unlock: str, predictor: str | None
) -> None:
    keys = [f"decoupling.unlock={unlock}", "cluster.synthesis=master", f"cluster.profile={profile}"]
    keys += ["network.layers=3", "run.batches=60", "optimizer.learning_rate=0.01"]
    served = {"1/gradient", "2/gradient"}
    if predictor:
        keys.append(f"decoupling.input={predictor}")
        served |= {"2/input", "3/input"}
    settings = [part for key in keys for part in ("--set", key)]
    summary = cli.json("train", *text, *MODEL, *settings, "--json")
    assert summary["synthesis"] == "master"
    assert {shard for shard, version in summary["versions"].items() if version > 1} >= served
    if unlock != "full":  # whose messages the machine's load decides about
        # Of 20 equally likely characters: 4.3 bits.
        assert summary["metrics"]["bits_per_character"] < 4.2
