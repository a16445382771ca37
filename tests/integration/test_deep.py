"""Deep networks in a few layers each, in real processes."""

from __future__ import annotations

import pytest

from tests.integration.processes import QUICK, ROOT, Cli

# Shaped as CIFAR's images; the class is the channel that is bright.
COLOURS = """
import numpy as np

def colours():
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 640)
    x = generator.integers(0, 128, (640, 3, 32, 32))
    x[np.arange(640), y] += 100
    x = x.astype(np.uint8)
    return x[:512], y[:512], x[512:], y[512:]
"""


@pytest.mark.slow
def test_a_resnet_of_twenty_layers_learns_in_two(cli: Cli) -> None:
    (cli.folder / "made.py").write_text(COLOURS)
    settings = [
        "data.dataset=made.py:colours",
        "data.augment=crop-flip",
        "network.model=resnet",
        "network.layers=2",
        "optimizer.schedule=steps",
        "run.batches=48",
    ]
    sets = [part for setting in settings for part in ("--set", setting)]
    summary = cli.json("train", *QUICK, *sets, "--json", timeout=280)
    assert summary["layers"] == 2
    # That of knowing nothing is 1.1.
    assert summary["test_loss"] < 0.7
    assert summary["test_error_percent"] < 20


@pytest.mark.slow
@pytest.mark.long
def test_fifty_layers_with_one_synthesizer_in_the_middle_learn_digits(cli: Cli) -> None:
    example = str(ROOT / "examples" / "mnist-fifty.toml")
    settings = ["data.dataset=digits", "run.batches=800", "run.batch_size=64"]
    sets = [part for setting in settings for part in ("--set", setting)]
    summary = cli.json("train", example, *sets, "--json", timeout=280)
    assert summary["layers"] == 2
    assert summary["lost_batches"] == 0
    assert summary["test_error_percent"] < 20
