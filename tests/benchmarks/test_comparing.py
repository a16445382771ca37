"""A comparison that a benchmark plays."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.comparing import play_comparison
from common.errors import RunFailedError

FILE = """\
[run]
batches = 4
batch_size = 4
evaluate_every = 2

[data]
dataset = "text"
context = 8

[network]
model = "gpt"
options = { width = 8, heads = 2, blocks = 2 }

[compare.variants."one"]
network.layers = 2
"""


def test_a_comparison_returns_its_runs_and_says_when_it_failed(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(FILE, encoding="utf-8")
    (tmp_path / "text.txt").write_text("To be or not to be, that is the question.\n" * 40, encoding="utf-8")
    command, out = ("compare", str(tmp_path / "small.toml")), tmp_path / "out"
    (variant,) = play_comparison(command, tmp_path / "text.txt", out, 1)["variants"]
    (run,) = variant["runs"]
    assert (variant["name"], run["seed"], run["summary"]["batches"]) == ("one", 0, 4)
    assert (out / variant["folder"] / "seed-0" / "metrics.jsonl").exists()
    with pytest.raises(RunFailedError, match=r"compare .*small\.toml ended with "):
        play_comparison(command, tmp_path / "none.txt", tmp_path / "other", 1)
