"""Copy and repeat-copy in one process: layers wait for levels, levels rise, slaves die."""

from __future__ import annotations

import dataclasses

import pytest

from common.data.batches import Batches
from common.data.copying import Stage
from common.models import network
from common.wire.curriculum import Curriculum
from common.wire.messages import HeartbeatReply, JoinReply
from deploy.comparison import variants
from deploy.evaluation.evaluator import Evaluator
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep
from slave.training import layers
from slave.training.worker import Scored, Worker
from tests.deploy.runs import loaded
from tests.integration.processes import ROOT

KEYS = [
    "data.dataset=copy", "network.model=lstm", "network.options={width=6}", "time.window=3",
    "run.batch_size=4", "run.batches=420", "run.evaluate_every=1000", "network.cuts=[1]",
    "optimizer.learning_rate=0.01",
]  # fmt: skip


@pytest.mark.parametrize("unlock", ["none", "full"])
def test_a_layer_stands_still_where_no_level_is_decided_and_goes_on_once_the_master_has(unlock: str) -> None:
    config, dataset = loaded([*KEYS, f"decoupling.unlock={unlock}", "network.cuts=[]"])
    blueprint = network.build_initial(config, dataset.inputs, dataset.targets)
    trained = layers.build(config, blueprint, dataset, JoinReply(layer=1), None)
    worker = Worker(trained)
    list(worker.handle(HeartbeatReply(begin=True)))
    scored = {}
    while worker.can_advance:
        effects = list(worker.advance())
        if any(isinstance(effect, Scored) for effect in effects):
            assert trained.scores is not None
            scored[worker.trainer.steps] = [score.block for score in trained.scores.report()]
    assert worker.trainer.next_batch == 200
    assert not worker.trainer.through
    assert scored == {100: [0], 200: [0, 1]}
    assert trained.scores is not None
    (first, _) = trained.scores.report()
    # Of four equally likely tokens: 2 bits. Nearly half of the positions have an answer.
    assert 0.3 < first.bits / first.answers < 2.2
    assert first.answers == pytest.approx(100 * 4 * 3 * 2 / 4, rel=0.02)
    list(worker.handle(HeartbeatReply(curriculum=Curriculum([0], 300))))
    assert [score.block for score in trained.scores.report()] == [1]
    while worker.can_advance:
        list(worker.advance())
    assert worker.trainer.next_batch == 300


def test_a_successor_reports_blocks_that_it_has_not_seen_without_answers() -> None:
    config, dataset = loaded([*KEYS, "network.cuts=[]"])
    blueprint = network.build_initial(config, dataset.inputs, dataset.targets)
    lease = JoinReply(layer=1, next_batch=350, curriculum=Curriculum([0], 400))
    scores = layers.build(config, blueprint, dataset, lease, None).scores
    assert scores is not None
    assert [(score.block, score.answers) for score in scores.report()] == [(2, 0)]


@pytest.mark.parametrize(
    "keys", [["downpour.warm_start=250", "downpour.replicas=2"], ["downpour.replicas=[1, 3]"]]
)
def test_replicas_decide_together_and_no_warm_start_holds_them_up(keys: list[str]) -> None:
    config, dataset = loaded([*KEYS, "decoupling.unlock=update", "time.gradient=dni", *keys])
    run = Driver(config, dataset, trains=True)
    for _ in run.run():
        pass
    assert run.status().curriculum.decided >= 500


@pytest.mark.parametrize("unlock", ["delayed", "full"])
def test_a_run_whose_slaves_die_goes_on_and_has_the_batches_of_its_list(unlock: str) -> None:
    deaths = "simulation.deaths={'1.0' = 0.2, '2.0' = 0.4}"
    config, dataset = loaded([*KEYS, f"decoupling.unlock={unlock}", deaths, "downpour.n_push=50"])
    run = Driver(config, dataset, trains=True)
    for _ in run.run():
        pass
    assert run.deaths == 2
    again = Batches.of(config, dataset)
    again.learn(run.status().curriculum)
    for machine in run.machines:
        assert machine.worker is not None
        made = machine.worker.trained.batches
        assert made is not None
        assert made.levels == again.levels


def test_levels_rise_and_the_network_is_measured_at_the_level_of_its_last_batch() -> None:
    easy = ["network.options={width=16}", "run.batch_size=16", "optimizer.learning_rate=0.02"]
    config, dataset = loaded([*KEYS, *easy, "cluster.profile=synchronous", "run.batches=800"])
    run = InStep(config, dataset)
    for _ in run.run():
        pass
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    levels = run.status().curriculum
    assert len(levels.starts) > 1
    pulled = evaluator.pull(run.pull, lambda: levels)
    measured = evaluator.measure(pulled)
    assert measured.metrics["level"] == len(levels.starts)
    assert measured.metrics["longest_solved"] == 2 + len(levels.starts)
    far = dataclasses.replace(pulled, stage=Stage(20))
    assert measured.metrics["bits_per_token"] < evaluator.measure(far).metrics["bits_per_token"]


@pytest.mark.parametrize(("name", "last"), [("copy", "dni"), ("copy-lambda", "lambda")])
def test_the_examples_compare_the_gradients_in_time_at_equal_budgets(name: str, last: str) -> None:
    found = variants.read(ROOT / "examples" / f"{name}.toml", [], [], None, "cluster")
    configs = [variant.config for variant in found.variants]
    assert [config.time.gradient for config in configs] == ["none", "dni", last]
    assert all(config.run == configs[0].run for config in configs)
    assert all(config.network == configs[0].network for config in configs)
