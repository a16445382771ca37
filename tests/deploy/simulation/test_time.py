"""Recurrent layers on streams: in step as a plain loop of truncated back-propagation; every unlock."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config.sections import Config
from common.config.time import TimeConfig
from common.config.unlocks import UNLOCKS
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.models import network
from common.models.recurrent import Window, pass_on, state_size, unroll
from common.models.rehearsal import rehearse
from common.signals.values import plain
from common.synthesizers import initial_time
from common.synthesizers.time.traces import Traces
from common.wire.messages import JoinReply
from deploy.evaluation.evaluator import Evaluator
from deploy.evaluation.generate import Sampling, sample
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep
from slave.training import layers
from tests.deploy.runs import loaded

LINES = ["the cat sat on the mat", "a dog ran to the cat", "the mat lay on the floor", "so the dog sat too"]
OWN = """
import torch
from torch import nn

class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.state_size = {size}
        self.rate = nn.Parameter(torch.full((4,), 0.5))

    def unroll(self, x, state):
        gated = {{"h": x["h"] * self.rate, "kept": x["kept"]}}
        sums = state[:, None] + gated["h"].cumsum(1)
        return {{"h": sums, "kept": x["kept"]}}, {after}

    def forward(self, x):
        return self.unroll(x, torch.zeros(len(x["h"]), 4, device=x["h"].device))[0]

class Split(nn.Module):
    def forward(self, h):
        return {{"h": h, "kept": h.detach() * 2}}

class Join(nn.Module):
    def forward(self, x):
        return x["h"] + x["kept"]

def build(input_shape, classes):
    return [nn.Embedding(classes, 4), Split(), {units} Join(), nn.Linear(4, classes)]
"""

FIXED = """
from torch import nn
from common.models.recurrent import Gru

def build(input_shape, classes):
    first = [nn.Embedding(classes, 4), Gru(4, 4)]
    for unit in first:
        unit.requires_grad_(False)
    return [*first, Gru(4, 4), nn.Linear(4, classes)]
"""
SYNTHESIZER_RATE = 0.2


@pytest.fixture
def text(tmp_path: Path) -> list[str]:
    """Settings of a small run on a small text: two recurrent layers, and windows of 5 steps."""
    (tmp_path / "text.txt").write_text("\n".join(LINES * 40))
    return [
        "data.dataset=text", f"data.path={tmp_path}/text.txt", "data.tokens=characters", "time.window=5",
        "network.model=lstm", "network.options={width=12,depth=2,embedding=8}", "network.cuts=[2]",
        "run.batch_size=8", "run.batches=150", "optimizer.learning_rate=0.01",
    ]  # fmt: skip


def network_of(config: Config, dataset: Dataset) -> nn.Sequential:
    return nn.Sequential(*network.build(config, dataset.inputs, dataset.targets).units)


def play(run: InStep | Driver) -> None:
    for _ in run.run():
        pass


def learn(module: nn.Sequential, config: Config, dataset: Dataset) -> None:
    """Train by a plain loop over the run's streams: truncated back-propagation, or M in time of one layer."""
    optimizer = torch.optim.SGD(module.parameters(), lr=config.optimizer.learning_rate)
    size, rows, time = state_size(module), config.run.batch_size, config.time
    taught = initial_time(config, 1, size) if time.row.synthesizes else None
    lessons = torch.optim.SGD(taught.parameters(), lr=SYNTHESIZER_RATE) if taught else None
    source = Batches.of(config, dataset)
    assert source.streams is not None
    zeros = state = torch.zeros(rows, size)
    for batch in range(config.run.batches):
        if source.streams.begins(batch):
            state = zeros
            traces = Traces(taught.synthesizer, time.decay) if taught and time.decay is not None else None
        x = plain(source.inputs(batch))
        window = unroll(module, x, state)
        early = window.before
        if time.early:
            first = unroll(module, x[:, : time.early], state)
            early = first.after
            rest, after, *_ = pass_on(module, x[:, time.early :], early)
            assert after is not None
            window = Window(first.before, after, torch.cat([first.output, plain(rest)], 1))
        total = rows * F.cross_entropy(window.output.flatten(0, 1), source.labels(batch).flatten())
        if taught is None or lessons is None:
            window.backward([total], [None], None)
        else:
            delta = taught.synthesizer.gradient(window.after)
            jacobian = window.jacobian()
            if taught.head is not None:
                total = total + taught.head.total(early, delta)
            target = window.backward([total], [None], delta)
            divide([] if taught.head is None else taught.head.parameters(), rows)
            if traces is None:
                taught.synthesizer.learn(window.before, target)
            else:
                traces.learn(window.before, target, jacobian)
            lessons.step()
            lessons.zero_grad()
        divide(module.parameters(), rows)
        optimizer.step()
        optimizer.zero_grad()
        state = window.after.detach()


def divide(parameters: Iterable[nn.Parameter], rows: int) -> None:
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad /= rows


def assert_learned_plainly(
    run: InStep | Driver,
    config: Config,
    dataset: Dataset,
    rtol: float | None = None,
    atol: float | None = None,
) -> dict[str, torch.Tensor]:
    """Hold a run's weights against those of the plain loop, and return them."""
    module = network_of(config, dataset)
    learn(module, config, dataset)
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    state = evaluator.pull(run.pull).state
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=rtol, atol=atol)
    return state


@pytest.mark.parametrize("model", ["lstm", "gru"])
def test_in_step_without_unlock_recurrent_layers_learn_as_a_plain_loop_of_truncated_back_propagation(
    text: list[str], model: str
) -> None:
    plainly = ["decoupling.unlock=none", "optimizer.name=sgd", "optimizer.learning_rate=0.5"]
    settings = [*text, *plainly, f"network.model={model}", "cluster.profile=synchronous"]
    config, dataset = loaded(settings)
    # The run goes through more than an epoch, so that streams begin anew.
    assert config.run.batches > Batches.of(config, dataset).batches_per_epoch
    run = InStep(config, dataset)
    play(run)
    state = assert_learned_plainly(run, config, dataset)
    initial = network_of(config, dataset).state_dict()
    assert not torch.allclose(state["1.core.weight_hh_l0"], initial["1.core.weight_hh_l0"], atol=1e-3)


@pytest.mark.parametrize(
    ("gradient", "keys"),
    [
        ("dni", ["time.options={hidden=[16]}"]),
        ("dni", ["time.aux=true"]),
        ("dni", ["time.aux=true", "time.aux_horizon=1"]),
        ("lambda", ["time.options={decay=0.8}"]),
        ("lambda", ["time.aux=true", "time.aux_horizon=2"]),
    ],
    ids=["dni", "aux", "aux at a shorter horizon", "lambda", "lambda and aux"],
)
def test_in_step_m_in_time_is_its_plain_loop(text: list[str], gradient: str, keys: list[str]) -> None:
    plainly = ["decoupling.unlock=none", "optimizer.name=sgd", "optimizer.learning_rate=0.5"]
    taught = ["optimizer.synthesizer.name=sgd", f"optimizer.synthesizer.learning_rate={SYNTHESIZER_RATE}"]
    small = ["network.options={width=5,depth=1,embedding=4}", "network.cuts=[]", "time.window=3"]
    settings = [*text, *plainly, *taught, *small, "cluster.profile=synchronous", "time.scale=0.5"]
    config, dataset = loaded([*settings, f"time.gradient={gradient}", *keys])
    # The run goes through more than an epoch, so that streams and traces begin anew.
    assert config.run.batches > Batches.of(config, dataset).batches_per_epoch
    run = InStep(config, dataset)
    play(run)
    state = assert_learned_plainly(run, config, dataset, rtol=1e-3, atol=1e-4)
    (seat,) = run.seats()
    assert seat.telemetry.time_loss > 0
    assert abs(seat.telemetry.time_cosine) < 1
    assert seat.telemetry.time_norm_ratio > 0
    assert (seat.telemetry.time_aux_loss > 0) == config.time.aux
    truncated = network_of(config, dataset)
    learn(truncated, replace(config, time=TimeConfig(window=3)), dataset)
    weights = "1.core.weight_hh_l0"
    assert not torch.allclose(state[weights], truncated.state_dict()[weights], rtol=1e-3, atol=1e-4)


def test_as_separate_layers_without_unlock_the_same_is_learned(text: list[str]) -> None:
    plainly = ["decoupling.unlock=none", "optimizer.name=sgd", "optimizer.learning_rate=0.5"]
    config, dataset = loaded([*text, *plainly, "downpour.n_push=1"])
    run = Driver(config, dataset, trains=True)
    play(run)
    assert_learned_plainly(run, config, dataset, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("unlock", "gradient"),
    [*((unlock, gradient) for unlock in UNLOCKS for gradient in ("none", "dni"))],
)
def test_under_every_unlock_two_recurrent_layers_learn_and_lose_no_state(
    text: list[str], unlock: str, gradient: str
) -> None:
    # A recurrent unit has matrices that feedback alignment does not know.
    ways = ["decoupling.alignment=direct"] * UNLOCKS[unlock].aligns
    config, dataset = loaded([*text, f"decoupling.unlock={unlock}", f"time.gradient={gradient}", *ways])
    run = Driver(config, dataset, trains=True)
    play(run)
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    measured = evaluator.measure(evaluator.pull(run.pull))
    # Of 20 equally likely characters: 4.3 bits.
    assert measured.metrics["bits_per_token"] < 3.6
    assert run.status().lost_states == 0
    for k, seat in enumerate(run.seats(), 1):
        synthesizes = config.time.row.synthesizes
        assert (seat.telemetry.time_loss > 0) == synthesizes
        assert (run.status().versions.get(f"{k}/time", 0) > 10) == synthesizes


def test_served_synthesis_leaves_m_in_time_in_the_slave(text: list[str]) -> None:
    config, dataset = loaded([*text, "time.gradient=dni", "cluster.synthesis=master"])
    blueprint = network.build(config, dataset.inputs, dataset.targets)
    begun: list[str] = []
    serving: Any = object()
    layers.build(
        config, blueprint, dataset, JoinReply(layer=1), lambda copy: begun.append(copy.name), serving=serving
    )
    assert begun == ["1/weights", "1/time"]


def test_without_computing_m_in_time_is_pushed_and_paid_for(text: list[str]) -> None:
    seconds = []
    for gradient in ("none", "dni"):
        config, dataset = loaded([*text, f"time.gradient={gradient}", "decoupling.unlock=delayed"])
        run = Driver(config, dataset, trains=False)
        play(run)
        seconds.append(run.seconds)
        versions = run.status().versions
        assert {name for name in versions if name.endswith("time")} == (
            {"1/time", "2/time"} if gradient == "dni" else set()
        )
        assert not versions.get("1/time") or versions["1/time"] == versions["1/weights"]
    assert seconds[1] > seconds[0]


def test_fixed_layers_have_no_m_in_time(text: list[str], tmp_path: Path) -> None:
    (tmp_path / "fixed.py").write_text(FIXED)
    more = [f"network.model={tmp_path}/fixed.py:build", "network.options={}", "run.batches=20"]
    config, dataset = loaded([*text, *more, "time.gradient=dni", "decoupling.unlock=delayed"])
    run = Driver(config, dataset, trains=True)
    play(run)
    assert set(run.status().versions) == {"1/weights", "2/weights", "2/time"}


def test_replicas_have_streams_of_their_own_and_a_warm_start_hands_groups_over_without_their_states(
    text: list[str],
) -> None:
    more = ["downpour.replicas=[2, 1]", "decoupling.unlock=delayed", "downpour.push=gradient"]
    config, dataset = loaded([*text, *more])
    assert config.groups == 2
    run = Driver(config, dataset, trains=True)
    play(run)
    assert run.status().lost_states == 0
    config, dataset = loaded([*text, *more, "downpour.warm_start=20"])
    run = Driver(config, dataset, trains=True)
    play(run)
    # Replica 1 of the first layer takes group 1 over in the midst of an epoch; and the layer above, from
    # which the warm start keeps nothing, gets its first window before those of replica 0.
    assert [seat.telemetry.lost_states for seat in run.seats()] == [0, 8, 8]


def test_a_successor_without_a_backup_goes_on_from_zeros_and_its_streams_are_counted(text: list[str]) -> None:
    config, dataset = loaded([*text, "decoupling.unlock=none"])
    whole = Driver(config, dataset, trains=True)
    play(whole)
    config, dataset = loaded(
        [*text, "decoupling.unlock=none", f'simulation.deaths={{"2.0"={whole.seconds / 2}}}']
    )
    run = Driver(config, dataset, trains=True)
    play(run)
    assert run.deaths == 1
    assert run.status().lost_states == config.run.batch_size


def test_an_evaluation_carries_the_state_over_the_test_stream(text: list[str]) -> None:
    config, dataset = loaded([*text, "run.batches=30", "cluster.profile=synchronous"])
    run = InStep(config, dataset)
    play(run)
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    pulled = evaluator.pull(run.pull)
    module = network_of(config, dataset).eval()
    module.load_state_dict(pulled.state)
    windows, streams = len(dataset.test), 16
    length, longer = divmod(windows, streams)
    nats, tokens, row = 0.0, 0, 0
    with torch.no_grad():
        for stream in range(streams):
            rows = torch.arange(row, row + length + (stream < longer)).numpy()
            row += len(rows)
            x = torch.from_numpy(dataset.test.inputs(rows)[""]).long().view(1, -1)
            y = torch.from_numpy(dataset.test.targets(rows)).view(-1)
            nats += float(F.cross_entropy(module(x)[0], y, reduction="sum"))
            tokens += len(y)
        apart = float(F.cross_entropy(module(windows_of(dataset)).flatten(0, 1), labels_of(dataset)))
    assert row == windows
    bits = nats / tokens / math.log(2)
    assert evaluator.measure(pulled).metrics["bits_per_token"] == pytest.approx(bits, rel=1e-5)
    assert apart / math.log(2) != pytest.approx(bits, rel=1e-3)


def windows_of(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.test.inputs(torch.arange(len(dataset.test)).numpy())[""]).long()


def labels_of(dataset: Dataset) -> Tensor:
    return torch.from_numpy(dataset.test.targets(torch.arange(len(dataset.test)).numpy())).flatten()


def test_generated_tokens_depend_on_all_tokens_before_them(text: list[str]) -> None:
    config, dataset = loaded([*text, "run.batches=30", "cluster.profile=synchronous"])
    module = network_of(config, dataset).eval()
    greedy, prompt = Sampling(temperature=0), [3, 1, 4, 1, 5, 9, 2, 6]
    found = list(sample(module, prompt, 6, None, dataset.classes, greedy))
    expected = list(prompt)
    for _ in range(6):
        with torch.no_grad():
            expected.append(int(module(torch.tensor([expected]))[0, -1].argmax()))
    assert found == expected[len(prompt) :]


def own(folder: Path, units: str = "Sum(),", after: str = "sums[:, -1]", size: str = "4") -> list[str]:
    (folder / "own.py").write_text(OWN.format(units=units, after=after, size=size))
    return [f"network.model={folder}/own.py:build", "network.options={}", "network.cuts=[2, 4]"]


def test_a_users_recurrent_unit_may_take_a_dict(text: list[str], tmp_path: Path) -> None:
    units = own(tmp_path, "Sum(), Sum(),")
    config, dataset = loaded([*text, *units, "decoupling.unlock=delayed", "run.batches=60"])
    run = Driver(config, dataset, trains=True)
    play(run)
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    assert evaluator.measure(evaluator.pull(run.pull)).metrics["bits_per_token"] < 10
    module, source = network_of(config, dataset), Batches.of(config, dataset)
    joined = torch.cat([plain(source.inputs(0)), plain(source.inputs(1))], 1)
    first = unroll(module, source.inputs(0), torch.zeros(8, state_size(module)))
    second = unroll(module, source.inputs(1), first.after)
    torch.testing.assert_close(torch.cat([first.output, second.output], 1), module(joined))


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"units": ""}, r"^time.window: .*own.py:build has no recurrent unit, a module with state_size and "),
        (
            {"units": "nn.Sequential(Sum()),"},
            r"unit 3 \(Sequential.* holds a recurrent module \(Sum\), whose",
        ),
        ({"size": "'four'"}, r"unit 3 \(Sum\(\)\) has state_size = 'four'; give the numbers of state "),
        ({"size": "0"}, r"unit 3 \(Sum\(\)\) has state_size = 0; "),
    ],
)
def test_a_network_without_a_state_is_refused(
    text: list[str], tmp_path: Path, changes: dict[str, str], refusal: str
) -> None:
    with pytest.raises(ConfigError, match=refusal):
        loaded([*text, *own(tmp_path, **changes)])


def test_a_next_state_of_another_form_is_refused_before_the_start(text: list[str], tmp_path: Path) -> None:
    config, dataset = loaded([*text, *own(tmp_path, after="sums[:, -1, :2]")])
    with pytest.raises(ConfigError, match=r"next state as float32 \(8, 2\); it must give float32 \(8, 4\)$"):
        rehearse(config, dataset, 1 << 26)
    rehearse(*loaded([*text, *own(tmp_path)]), 1 << 26)


def test_traces_beyond_the_bound_are_refused(text: list[str]) -> None:
    large = ["time.gradient=lambda", "network.options={width=512}"]
    with pytest.raises(
        ConfigError, match=r'^time.gradient: "lambda" keeps 8,.* in layer 1, .*; choose "dni"'
    ):
        loaded([*text, *large, "network.cuts=[2]"])


def test_a_next_state_without_a_gradient_is_refused_where_m_in_time_needs_one(
    text: list[str], tmp_path: Path
) -> None:
    detached = own(tmp_path, after="sums[:, -1].detach()")
    rehearse(*loaded([*text, *detached]), 1 << 26)
    with pytest.raises(
        ConfigError, match=r'unit 3 .* next state without a gradient, but time.gradient = "dni"'
    ):
        rehearse(*loaded([*text, *detached, "time.gradient=dni"]), 1 << 26)
    rehearse(*loaded([*text, *own(tmp_path), "time.gradient=dni"]), 1 << 26)


def test_a_unit_that_changes_the_state_before_is_refused_before_the_start(
    text: list[str], tmp_path: Path
) -> None:
    config, dataset = loaded([*text, *own(tmp_path, after="state.add_(x['h'].detach().sum(1))")])
    with pytest.raises(ConfigError, match=r"unit 3 \(Sum\(\)\), .* changes the state that it takes in place"):
        rehearse(config, dataset, 1 << 26)
