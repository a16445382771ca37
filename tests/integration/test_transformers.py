"""The example with a network of Hugging Face's transformers."""

from __future__ import annotations

import pytest

from tests.integration.processes import QUICK, ROOT, Cli

pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
# Real processes, for seconds each.
pytestmark = pytest.mark.slow


def test_gpt_2_of_transformers_trains_in_two_layers(cli: Cli) -> None:
    (cli.folder / "text.txt").write_text("the cat sat on the mat\n" * 200)
    data = ["--set", "data.dataset=text", "--set", "data.path=text.txt", "--set", "data.context=16"]
    model = [
        "--set",
        f"network.model={ROOT}/examples/transformers_gpt2.py:build",
        "--set",
        "network.layers=2",
    ]
    model += ["--set", "network.options={n_embd=16,n_head=2,n_layer=2}", "--set", "run.batch_size=8"]
    more = ["--set", "run.batches=60", "--set", "optimizer.learning_rate=0.01", "--json"]
    summary = cli.json("train", *QUICK, *data, *model, *more)
    assert summary["layers"] == 2
    # Of 256 equally likely bytes: 8 bits.
    assert summary["metrics"]["bits_per_token"] < 5
