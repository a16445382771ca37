"""deploy.simulation.driver: determinism, equality with torch, and effects of the machines' settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from common.data.batches import Batches
from common.errors import ConfigError
from common.models import network
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from deploy.evaluation.evaluator import pull_network
from deploy.simulation.driver import Driver
from deploy.simulation.simulate import predict, with_slaves
from deploy.simulation.synchronous import InStep
from tests.deploy.runs import digits, hollow, resolved, trained

UNLOCKS = ["none", "update", "delayed", "local", "full", "alignment"]
ROUGH = ["simulation.jitter=0.5", "simulation.loss=0.05", "simulation.resend_seconds=0.002"]


def unlock(name: str) -> str:
    return f"decoupling.unlock={name}"


@pytest.mark.parametrize("name", UNLOCKS)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    assert trained(unlock(name), *ROUGH) == trained(unlock(name), *ROUGH)


def test_another_seed_of_the_schedule_gives_another_schedule() -> None:
    one, other = (trained(unlock("update"), f"simulation.seed={seed}", *ROUGH) for seed in (0, 1))
    assert one.seconds != other.seconds
    assert one.digest != other.digest


def plain(*overrides: str) -> dict[str, torch.Tensor]:
    """Train by plain back-propagation in torch: a single process, module and optimizer, no `Layer`."""
    config = resolved(*overrides)
    blueprint = network.build(config, digits().inputs, digits().targets)
    flat = Flat(nn.Sequential(*blueprint.units).train())
    stepper = Stepper(flat, config.optimizer, config.run.batches)
    batches = Batches(digits(), config.run.seed, config.run.batch_size)
    for b in range(config.run.batches):
        loss = functional.cross_entropy(flat.module(batches.inputs(b)), batches.labels(b), reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        stepper.step(b, config.run.batch_size)
    return flat.module.state_dict()


LATE = [
    [],
    ["decoupling.backward=stash"],
    ["decoupling.backward=stored"],
    ["decoupling.correction=proximal"],
]


@pytest.mark.parametrize("profile", ["light", "synchronous"])
@pytest.mark.parametrize(("name", "keys"), [("none", []), *(("delayed", keys) for keys in LATE)])
def test_one_batch_at_a_time_is_back_propagation_and_in_step_to_the_last_bit(
    name: str, keys: list[str], profile: str
) -> None:
    late = ["decoupling.in_flight=1", *keys] if name == "delayed" else []
    # A push rounds updates as the master does; only the last push remains.
    once = ["downpour.n_push=1000"] if profile == "light" else []
    config = resolved(unlock(name), f"cluster.profile={profile}", *late, *once)
    run: InStep | Driver
    run = InStep(config, digits()) if profile == "synchronous" else Driver(config, digits(), trains=True)
    for _ in run.run():
        pass
    state, expected = pull_network(config, run.pull).state, plain()
    assert state.keys() == expected.keys()
    for tensor, value in expected.items():
        if profile == "light":
            torch.testing.assert_close(state[tensor], value, rtol=0, atol=1e-7)
        else:
            assert torch.equal(state[tensor], value), tensor


@pytest.mark.parametrize("name", UNLOCKS)
def test_without_training_all_goes_as_it_does_with_it(name: str) -> None:
    keys = [unlock(name), "downpour.replicas=[1, 2, 1]", *ROUGH]
    real, empty = trained(*keys), hollow(*keys)
    told = empty.status()
    assert told.delays == real.status.delays
    assert told.counters.staleness == real.status.counters.staleness
    assert told.versions == real.status.versions
    assert empty.seconds == real.seconds


@pytest.mark.parametrize("push", ["update", "gradient"])
def test_replicas_make_pushes_stale(push: str) -> None:
    run = trained("downpour.replicas=2", f"downpour.push={push}", "downpour.n_fetch=4")
    assert max(run.status.counters.staleness) > 0
    assert run.status.lost_batches == 0


@pytest.mark.parametrize("layers", [1, 2])
def test_replicas_under_an_outer_optimizer_are_layers_times_replicas_and_learn(layers: int) -> None:
    """One layer with replicas is asynchronous data parallelism."""
    keys = [f"network.layers={layers}", "downpour.replicas=2", "downpour.n_fetch=4", "run.batches=160"]
    run = trained(*keys, "downpour.server_optimizer=nesterov", *ROUGH)
    assert len(run.status.seats) == 2 * layers
    assert all(run.status.versions[f"{k}/weights"] >= 20 for k in range(1, layers + 1))
    assert run.losses[-1] < 0.5 * run.losses[0]
    assert run.status.lost_batches == 0


@pytest.mark.parametrize("server", [[], ["downpour.server_optimizer=nesterov", "downpour.precision=int8"]])
def test_fragments_are_pushed_and_fetched_by_turns_and_learn(server: list[str]) -> None:
    keys = [
        "network.layers=1", "downpour.replicas=2", "downpour.n_push=16", "downpour.n_fetch=16",
        "run.batches=320", *ROUGH, *server,
    ]  # fmt: skip
    whole, cut = trained(*keys), trained(*keys, "downpour.fragments=4", "downpour.blend=0.25")
    assert cut.status.versions["1/weights"] > 2 * whole.status.versions["1/weights"]
    assert cut.losses[-1] < 0.7 * cut.losses[0]
    assert cut.status.lost_batches == 0
    assert hollow(*keys, "downpour.fragments=4").status().versions == cut.status.versions


def test_auto_pushes_take_their_share_of_a_link_of_100_mbit_and_the_rate_needs_no_setting() -> None:
    keys = [
        unlock("none"), "network.layers=1", "network.options.widths=[512, 512]", "run.batches=1500",
        "simulation.bandwidth_bytes_per_second=12.5e6", "simulation.jitter=0.0", "cluster.backup_steps=0",
    ]  # fmt: skip
    often, auto = (hollow(*keys, f"downpour.n_push={n}") for n in (10, "auto"))
    (seat,) = auto.seats()
    per_push = auto.seconds / auto.status().versions["1/weights"]
    sent = 4 * (65 * 512 + 513 * 512 + 513 * 10) / 12.5e6
    assert sent / per_push < 0.06
    assert seat.telemetry.push_steps > 10
    assert auto.status().versions["1/weights"] < often.status().versions["1/weights"]
    fast = hollow(*keys, "downpour.n_push=auto", "simulation.bandwidth_bytes_per_second=1e12")
    assert fast.seats()[0].telemetry.push_steps < seat.telemetry.push_steps


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("push", ["update", "gradient"])
def test_narrow_pushes_learn_alike_and_take_a_slow_link_for_less_time(push: str, precision: str) -> None:
    keys = [
        unlock("none"), "downpour.replicas=2", f"downpour.push={push}", "downpour.n_push=1",
        "simulation.bandwidth_bytes_per_second=1e6", "network.options.widths=[64, 64]", "run.batches=80",
    ]  # fmt: skip
    wide, narrow = trained(*keys), trained(*keys, f"downpour.precision={precision}")
    assert narrow.seconds < 0.9 * wide.seconds
    assert narrow.losses[-1] < 1.1 * wide.losses[-1]
    assert hollow(*keys, f"downpour.precision={precision}").seconds == narrow.seconds


@pytest.mark.parametrize(
    "keys",
    [
        *([unlock(name)] for name in UNLOCKS),
        ["downpour.fragments=4", "downpour.server_optimizer=nesterov", "downpour.precision=int8"],
    ],
)
def test_a_run_with_losses_and_a_death_comes_to_its_end(keys: list[str]) -> None:
    driver = hollow(
        *keys,
        *ROUGH,
        'simulation.deaths={"1" = 0.01, "2" = 0.02}',
        "simulation.restart_seconds=0.01",
        "run.batches=100",
    )
    assert driver.deaths == 2
    assert driver.status().state == "done"
    through = [driver.master.store.next_batch(f"{k}/weights") for k in (1, 2, 3)]
    assert min(through) >= 100


def test_one_straggler_is_the_pace_of_all_unless_nobody_waits() -> None:
    slowed = ['simulation.slowed={"2" = 20.0}', "simulation.jitter=0.0", "cluster.profile=light"]
    steady = hollow(unlock("update"), "simulation.jitter=0.0")
    slow = hollow(unlock("update"), *slowed)
    assert slow.seconds > 3 * steady.seconds
    assert slow.utilization(2) > 0.95
    assert slow.utilization(1) < 0.3
    # Under `full` the remaining layers go on stepping meanwhile, as far as the lead lets them.
    assert hollow(unlock("full"), *slowed, "decoupling.lead=128").utilization(1) > 0.95
    assert hollow(unlock("full"), *slowed, "decoupling.lead=4").utilization(1) < 0.5


def test_a_faster_machine_begins_on_the_layer_with_more_work() -> None:
    uneven = [unlock("update"), "network.options.widths=[512, 32]", "simulation.jitter=0.0", "run.batches=60"]
    uneven += ["simulation.overhead_seconds=0.0", "simulation.rate=1e8"]
    steady = hollow(*uneven)
    # Whichever of them comes first.
    for speeds in ("[4, 1, 1]", "[1, 1, 4]"):
        found = hollow(*uneven, f"simulation.machines={speeds}")
        assert [machine.slowness for machine in found.machines] == [0.25, 1, 1]
        assert found.seconds < 0.7 * steady.seconds
    assert hollow(*uneven, "simulation.machines=[0.25, 1, 1]").machines[2].slowness == 4
    with pytest.raises(ConfigError, match=r"simulation\.machines: 2 speeds for 3 slaves"):
        hollow("simulation.machines=[1, 2]")


def test_slaves_are_placed_where_they_are_needed_and_bring_throughput() -> None:
    quick = ["simulation.master_seconds=0.0", "simulation.bandwidth_bytes_per_second=1e9"]
    config = resolved(unlock("update"), "run.batches=200", "network.options.widths=[256, 256]", *quick)
    few, some = (predict(with_slaves(config, digits(), count), digits()) for count in (2, 12))
    assert (few["slaves"], few["layers"]) == (2, 2)
    assert (some["slaves"], some["layers"]) == (12, 3)
    assert max(some["replicas"]) == some["replicas"][1]
    assert some["samples_per_second"] > 1.5 * few["samples_per_second"]


def test_stores_take_pushes_and_fetches_from_the_master() -> None:
    busy = [unlock("update"), "run.batches=200", "cluster.profile=basic", "downpour.n_push=1"]
    busy += ["simulation.master_seconds=0.002"]
    alone, shared = (predict(resolved(*busy, f"cluster.stores={n}"), digits()) for n in (0, 3))
    assert alone["store_utilization"] == 0 < alone["master_utilization"]
    # In `basic` the master has nothing else to do.
    assert shared["master_utilization"] == 0 < shared["store_utilization"]
    # Three cores answer more pushes than one.
    assert shared["pushes"] > 1.5 * alone["pushes"]


@pytest.mark.parametrize("wire", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("name", UNLOCKS)
def test_narrow_messages_change_little_and_take_less_time(name: str, wire: str) -> None:
    slow = [unlock(name), "simulation.bandwidth_bytes_per_second=1e5", "run.batches=100"]
    whole, narrow = trained(*slow), trained(*slow, f"cluster.wire={wire}")
    assert narrow.digest != whole.digest
    # In `full` more messages arrive, and M and I learn on others.
    assert name == "full" or abs(narrow.error - whole.error) < 5
    assert narrow.seconds < whole.seconds
    empty = hollow(*slow, f"cluster.wire={wire}")
    assert empty.seconds == narrow.seconds


@pytest.mark.parametrize("key", ["slowed", "deaths"])
def test_a_slave_that_is_not_there_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"simulation\.{key}.*\"7\""):
        hollow(f'simulation.{key}={{"7" = 1.0}}')
    with pytest.raises(ConfigError, match="names no slave"):
        resolved(f'simulation.{key}={{"x" = 1.0}}')


@pytest.mark.parametrize("name", UNLOCKS)
def test_a_last_layer_without_parameters_trains_unless_no_layer_would_learn(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n"
        "def build(widths):\n"
        "    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), nn.LogSoftmax(1)]\n"
    )
    if name == "local":
        with pytest.raises(ConfigError, match=r"network.cuts: \[1\] leaves the last layer no parameters"):
            trained(f"network.model={file}:build", unlock(name))
        return
    run = trained(f"network.model={file}:build", unlock(name))
    assert run.losses[-1] < run.losses[0]
