"""The examples of networks are admitted, and train for a few batches under the driver's virtual clock."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.config import files
from common.config.sections import Config
from common.data import cifar10, datasets
from common.models import network, resolution
from common.models.rehearsal import rehearse
from deploy.comparison import variants
from deploy.evaluation.evaluator import Evaluator
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep
from examples import depths, line_search, vfbn_v
from examples.focal_loss import focal
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


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Folder of CIFAR-10's files, with a few images of noise."""
    table = np.random.default_rng(0).integers(0, 256, (20, 3073)).astype(np.uint8)
    table[:, 0] = np.arange(20) % 10
    for name in cifar10.FILES:
        (tmp_path / name).write_bytes(table.tobytes())
    return tmp_path


def test_the_resnet_trains_on_photographs(photographs: Path) -> None:
    small = ["network.options={width=4, blocks=1}", "run.batches=2", "run.batch_size=8"]
    config, losses = train(EXAMPLES / "cifar10-resnet.toml", f"data.path={photographs}", *small)
    assert (config.layers, config.decoupling.unlock) == (2, "delayed")
    assert math.isfinite(losses[-1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar10-resnet110", "{depth=8, width=4}"),
        ("cifar10-wrn", "{depth=10, width=1}"),
        ("vfbn-resnet110", "{depth=8}"),
    ],
)
def test_published_networks_train_by_every_variant(photographs: Path, name: str, options: str) -> None:
    """Networks of a block a stage take the place of the examples' own."""
    small = [f"data.path={photographs}", f"network.options={options}", "network.cuts=[2]"]
    small += ["run.batches=2", "run.batch_size=4", "run.evaluate_every=2"]
    for each in variants.read(EXAMPLES / f"{name}.toml", small, [], None, "driver").variants:
        dataset = datasets.of(each.config)
        config = resolution.resolve_with_torch(each.config, dataset)
        rehearse(config, dataset, LARGEST_SIGNAL_MESSAGE_BYTES)
        driver = Driver(config, dataset, trains=True)
        losses = [driver.status().seats[-1].telemetry.loss for _ in driver.run()]
        assert math.isfinite(losses[-1]), each.name


def test_the_crops_of_an_image_are_its_own_parts() -> None:
    x = torch.rand(40, 2, 32, 32)
    crop = vfbn_v.Crop()
    assert torch.equal(crop.eval()(x), x[:, :, 4:28, 4:28])
    windows = functional.unfold(x, vfbn_v.SIDE).view(40, 2, 24, 24, 81)
    taken = crop.train()(x)[..., None]
    plain, mirrored = ((taken == each).all((1, 2, 3)).any(1) for each in (windows, windows.flip(3)))
    assert (plain ^ mirrored).all()
    assert plain.any()
    assert mirrored.any()


def test_the_recurrent_network_learns_a_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 400)
    model = f"network.model={EXAMPLES}/gated.py:build"
    data = ["data.dataset=text", f"data.path={tmp_path}/text.txt", "time.window=8"]
    size = ["network.options={width=16}", "network.layers=2", "run.batch_size=8", "run.batches=60"]
    config, losses = train(None, model, *data, *size, "optimizer.learning_rate=0.01")
    assert config.layers == 2
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("depth", [3, 50])
def test_perceptrons_of_many_depths_pass_examples_on(depth: int) -> None:
    for activation in ("relu", "sigmoid"):
        units = depths.build((1, 4, 4), 10, depth, activation, 8)
        assert len(units) == depth + 1
        assert nn.Sequential(*units)(torch.zeros(2, 1, 4, 4)).shape == (2, 10)


@pytest.mark.parametrize("size", [2, 100])
def test_synthetic_gradients_alone_find_the_optimum_of_a_linear_regression(size: int) -> None:
    losses, distances = line_search.train(size)
    assert losses[-1] < 1e-12 < losses[0]
    assert distances[-1] < 1e-12


def variant(name: str, title: str, *overrides: str) -> float:
    """Train a variant of an example in step to its end; the loss that its evaluation gives."""
    found = variants.read(EXAMPLES / f"{name}.toml", overrides, [], None, "synchronous").variants
    (config,) = [each.config for each in found if each.name == title]
    dataset = datasets.of(config)
    config = resolution.resolve_with_torch(config, dataset)
    run = InStep(config, dataset)
    for _ in run.run():
        pass
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    return evaluator.measure(evaluator.pull(run.pull)).test_loss


def test_a_linear_m_leads_a_linear_network_where_back_propagation_does() -> None:
    short = ["run.batches=300", "optimizer.learning_rate=0.03"]
    assert variant("linear-mse", "linear, 2-D, M", *short) < 1e-3
    true, linear, logistic = (
        variant("linear-log", f"linear, 2-D, {method}", *short)
        for method in ("back-propagation", "linear M", "logistic M")
    )
    # A network that has learned nothing has a loss of ln 2.
    assert max(linear, logistic) < min(0.2, 2 * true)


def test_a_user_s_loss_is_the_cross_entropy_at_0_and_trains() -> None:
    logits, classes = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    plain = functional.cross_entropy(logits, classes, reduction="none")
    assert torch.allclose(focal(logits, classes, 0.0), plain)
    assert (focal(logits, classes) < plain).all()
    kind = [f"task.kind={EXAMPLES}/focal_loss.py:focal", "task.options={gamma=2}"]
    config, losses = train(None, *kind, "run.batches=40", "network.layers=2")
    assert config.metrics == ()
    assert losses[-1] < losses[0]
