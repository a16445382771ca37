"""The examples of networks are admitted, and train for a few batches under the driver's virtual clock."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.config import files
from common.config.sections import Config
from common.data import cifar10, datasets
from common.models import resolution
from common.models.rehearsal import rehearse
from deploy.simulation.driver import Driver
from tests.docs.blocks import ROOT

EXAMPLES = ROOT / "examples"
MOST_LINES = 60


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_an_example_fits_on_a_screen(file: Path) -> None:
    assert len(file.read_text().splitlines()) < MOST_LINES


def train(path: Path | None, *overrides: str) -> tuple[Config, list[float]]:
    """Train an example to its end; the configuration, and the losses of the top layer at its last batches."""
    config = files.load(path, overrides)
    dataset = datasets.of(config)
    dataset.check_fit(config)
    config = resolution.resolve_with_torch(config, dataset)
    rehearse(config, dataset, LARGEST_SIGNAL_MESSAGE_BYTES)
    driver = Driver(config, dataset, trains=True)
    losses = [driver.status().seats[-1].telemetry.loss for _ in driver.run()]
    assert driver.status().batches == config.run.batches
    return config, losses


def test_the_resnet_trains_on_photographs(tmp_path: Path) -> None:
    table = np.random.default_rng(0).integers(0, 256, (20, 3073)).astype(np.uint8)
    table[:, 0] = np.arange(20) % 10
    for name in cifar10.FILES:
        (tmp_path / name).write_bytes(table.tobytes())
    small = ["network.options={width=4, blocks=1}", "run.batches=2", "run.batch_size=8"]
    config, losses = train(EXAMPLES / "cifar10-resnet.toml", f"data.path={tmp_path}", *small)
    assert (config.layers, config.decoupling.unlock) == (2, "delayed")
    assert math.isfinite(losses[-1])


def test_the_recurrent_network_learns_a_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 400)
    model = f"network.model={EXAMPLES}/gated.py:build"
    data = ["data.dataset=text", f"data.path={tmp_path}/text.txt", "time.window=8"]
    size = ["network.options={width=16}", "network.layers=2", "run.batch_size=8", "run.batches=60"]
    config, losses = train(None, model, *data, *size, "optimizer.learning_rate=0.01")
    assert config.layers == 2
    assert losses[-1] < losses[0]
