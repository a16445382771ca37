"""Counted work of layers, by which the first seats of a run are dealt."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.config import files
from common.models import network
from deploy.simulation.paces import count_units
from tests.deploy.runs import digits
from tests.integration.processes import ROOT

PROGRAM = """
import sys
from common.models import network
from tests.deploy.runs import digits, resolved
config = resolved()
network.count_work(config, network.build(config, digits().inputs, digits().targets))
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_work_of_two_examples_stands_for_that_of_a_batch(model: str) -> None:
    asked = files.load(None, [f"network.model={model}", "network.layers=2", "run.batch_size=64"])
    blueprint = network.build(asked, digits().inputs, digits().targets)
    config = network.cut(asked, blueprint)
    units, cut = count_units(config, blueprint), (config.network.cuts or [])[0]
    expected = [sum(units[:cut]), sum(units[cut:])]
    found = network.count_work(config, blueprint)
    assert found == pytest.approx(expected, rel=0.1)


def test_counting_imports_no_compiler() -> None:
    """Its import takes over a second of a slave's start, and leaves a folder behind."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
