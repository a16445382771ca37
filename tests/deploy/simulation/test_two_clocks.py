"""examples/two-clocks.toml: the data, and what each variant teaches A's message to B."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.data import datasets
from common.data.batches import Batches
from common.models import network, resolution
from common.models.rehearsal import rehearse
from common.signals.values import plain
from deploy.comparison import variants
from deploy.evaluation.evaluator import Evaluator
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep
from tests.handwritten import write_mnist
from tests.integration.processes import ROOT

SMALL = [
    "network.options={width=16,message=4}",
    "run.batches=40",
    "run.batch_size=16",
    "run.evaluate_every=40",
]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("mnist"))


@pytest.fixture
def compared(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, variants.Variant]:
    """The variants of the example, by name."""
    monkeypatch.chdir(ROOT)
    settings = [*SMALL, f"data.path={mnist}"]
    found = variants.read(Path("examples/two-clocks.toml"), settings, [], None, "driver").variants
    return {variant.name: variant for variant in found}


def test_the_counts_are_those_of_the_last_steps(compared: dict[str, variants.Variant]) -> None:
    config = compared["dni"].config
    dataset = datasets.of(config)
    rows = np.arange(0, 160, 4)
    counts = dataset.train.targets(rows).reshape(-1, 2)
    assert counts.shape == (160, 2)
    # A count rises by one at most at a step, and by as much as 3s and odd digits there are.
    threes, odd = (counts[:, column] for column in (1, 0))
    assert np.abs(np.diff(threes)).max() == 1
    assert np.abs(np.diff(odd)).max() == 1
    assert 0.05 < threes.mean() / 16 < 0.15
    assert 0.4 < odd.mean() / 4 < 0.6
    source = Batches.of(config, dataset)
    assert plain(source.inputs(0)).shape == (16, 4, 1, 28, 28)
    assert source.labels(0).shape == (16, 4, 2)


@pytest.mark.parametrize("name", ["back-propagation", "dni", "cdni", "vfbn", "no gradient from B"])
def test_a_message_learns_from_b_unless_no_gradient_comes(
    compared: dict[str, variants.Variant], name: str
) -> None:
    learns = name != "no gradient from B"
    config = compared[name].config
    dataset = datasets.of(config)
    dataset.check_fit(config)
    config = resolution.resolve_with_torch(config, dataset)
    rehearse(config, dataset, 1 << 26)
    synchronous = config.cluster.profile == "synchronous"
    run = InStep(config, dataset) if synchronous else Driver(config, dataset, trains=True)
    for _ in run.run():
        pass
    blueprint = network.build(config, dataset.inputs, dataset.targets)
    initial = {
        name: each.clone() for name, each in torch.nn.Sequential(*blueprint.units).state_dict().items()
    }
    evaluator = Evaluator(config, dataset, blueprint)
    pulled = evaluator.pull(run.pull)
    changed = {name for name, each in pulled.state.items() if not torch.equal(each, initial[name])}
    assert ("2.weight" in changed) == learns
    assert {
        "0.1.weight",
        "1.core.weight_hh_l0",
        "1.head.weight",
        "3.core.weight_ih_l0",
        "4.weight",
    } <= changed
    metrics = config.order_metrics(evaluator.measure(pulled).metrics)
    assert list(metrics) == ["unit_2_error_percent", "unit_2_loss", "unit_5_error_percent"]
    assert 0 < metrics["unit_2_error_percent"] < 100
    assert run.status().lost_states == 0
    if not synchronous:
        versions = run.status().versions
        assert ("1/gradient" in versions) == learns
        assert {"1/time", "2/time"} <= versions.keys()
