"""The example with a network of Hugging Face's transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

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


def test_the_units_go_on_from_a_model_in_a_folder(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from examples.transformers_gpt2 import build

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_head=2, n_layer=2)).eval()
    model.save_pretrained(tmp_path)
    units: Any = torch.nn.Sequential(*build((8,), 50, folder=str(tmp_path))).eval()
    tokens = torch.randint(50, (3, 8))
    assert torch.allclose(units(tokens), model(tokens).logits, atol=1e-6)
    # A cut may fall between embedding and head.
    assert units[0].wte.weight is not units[-1][1].weight
