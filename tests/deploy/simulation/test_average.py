"""run.average = "ema": what is evaluated in step, in the driver, and with replicas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common.data.batches import Batches
from common.models import network
from deploy.evaluation.evaluator import Evaluator, estimate_statistics, pull_network
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep
from tests.deploy.runs import digits, resolved

EMA = ["run.average=ema", "run.average_horizon=3"]
AT_ONCE = ["downpour.n_push=1", "simulation.latency_seconds=0", "simulation.master_seconds=0"]


def ended(*overrides: str) -> InStep | Driver:
    config = resolved(*overrides)
    in_step = "cluster.profile=synchronous" in overrides
    run = InStep(config, digits()) if in_step else Driver(config, digits(), trains=True)
    for _ in run.run():
        pass
    return run


def learned(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state[name].flatten() for name in sorted(state) if name.endswith((".weight", ".bias"))])


def test_the_average_in_step_is_that_of_a_master() -> None:
    keys = ["decoupling.unlock=none", *EMA]
    in_step = ended(*keys, "cluster.profile=synchronous")
    driven = ended(*keys, *AT_ONCE)
    averages = [learned(pull_network(run.config, run.pull).state) for run in (in_step, driven)]
    torch.testing.assert_close(averages[0], averages[1], rtol=1e-4, atol=1e-5)
    weights = learned(pull_network(resolved("decoupling.unlock=none"), in_step.pull).state)
    assert (averages[0] - weights).abs().max() > 1e-3


def test_the_average_does_not_change_what_is_trained() -> None:
    keys = ["downpour.replicas=[1, 2, 1]", "downpour.fragments=2"]
    plain, averaged = ended(*keys), ended(*keys, *EMA)
    for k in (1, 2, 3):
        header, buffer = plain.pull(f"{k}/weights")
        again, other = averaged.pull(f"{k}/weights")
        assert (header, bytes(buffer)) == (again, bytes(other))
        assert bytes(averaged.pull(f"{k}/average")[1]) != bytes(buffer)


@pytest.mark.parametrize("profile", ["light", "synchronous"])
def test_statistics_of_batch_norm_are_those_of_the_averaged_weights(profile: str) -> None:
    run = ended(f"cluster.profile={profile}", *EMA)
    blueprint = network.build(run.config, digits().inputs, digits().targets)
    pulled = Evaluator(run.config, digits(), blueprint).pull(run.pull)
    assert set(pulled.versions) == {"1/average", "2/average", "3/average"}
    own = nn.Sequential(*network.build(run.config, digits().inputs, digits().targets).units).eval()
    own.load_state_dict(pull_network(run.config, run.pull).state)
    normal = next(each for each in own.modules() if isinstance(each, nn.BatchNorm1d))
    assert normal.running_mean is not None
    as_trained = normal.running_mean.clone()
    batches = Batches.of(run.config, digits())
    estimate_statistics(own, map(batches.inputs, range(30)))
    (name,) = (name for name in pulled.state if name.startswith("0.") and name.endswith("running_mean"))
    assert torch.equal(pulled.state[name], normal.running_mean)
    assert not torch.equal(pulled.state[name], as_trained)
