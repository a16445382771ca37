"""Recurrent layers on streams: in step as a plain loop of truncated back-propagation; every unlock."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import files
from common.config.sections import Config
from common.config.unlocks import UNLOCKS
from common.data import datasets
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.errors import ConfigError
from common.models import network, resolution
from common.models.recurrent import state_size, unroll
from common.models.rehearsal import rehearse
from common.signals.values import plain
from deploy.evaluation.evaluator import Evaluator
from deploy.evaluation.generate import Sampling, sample
from deploy.simulation.driver import Driver
from deploy.simulation.synchronous import InStep

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


@pytest.fixture
def text(tmp_path: Path) -> list[str]:
    """Settings of a small run on a small text: two recurrent layers, and windows of 5 steps."""
    (tmp_path / "text.txt").write_text("\n".join(LINES * 40))
    return [
        "data.dataset=text", f"data.path={tmp_path}/text.txt", "data.tokens=characters", "time.window=5",
        "network.model=lstm", "network.options={width=12,depth=2,embedding=8}", "network.cuts=[2]",
        "run.batch_size=8", "run.batches=150", "optimizer.learning_rate=0.01",
    ]  # fmt: skip


def load(settings: list[str]) -> tuple[Config, Dataset]:
    config = files.load(None, settings)
    dataset = datasets.load(config.data, config.time.window)
    dataset.check_fit(config)
    return resolution.resolve_with_torch(config, dataset), dataset


def network_of(config: Config, dataset: Dataset) -> nn.Sequential:
    return nn.Sequential(*network.build(config, dataset.inputs, dataset.targets).units)


def play(run: InStep | Driver) -> None:
    for _ in run.run():
        pass


def learn(module: nn.Sequential, config: Config, dataset: Dataset) -> None:
    """Train by a plain loop of truncated back-propagation on the run's streams."""
    optimizer = torch.optim.SGD(module.parameters(), lr=config.optimizer.learning_rate)
    source = Batches.of(config, dataset)
    assert source.streams is not None
    zeros = state = torch.zeros(config.run.batch_size, state_size(module))
    for batch in range(config.run.batches):
        if source.streams.begins(batch):
            state = zeros
        window = unroll(module, source.inputs(batch), state)
        F.cross_entropy(window.output.flatten(0, 1), source.labels(batch).flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        state = window.after.detach()


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
    config, dataset = load(settings)
    # The run goes through more than an epoch, so that streams begin anew.
    assert config.run.batches > Batches.of(config, dataset).batches_per_epoch
    run = InStep(config, dataset)
    play(run)
    state = assert_learned_plainly(run, config, dataset)
    initial = network_of(config, dataset).state_dict()
    assert not torch.allclose(state["1.core.weight_hh_l0"], initial["1.core.weight_hh_l0"], atol=1e-3)


def test_as_separate_layers_without_unlock_the_same_is_learned(text: list[str]) -> None:
    plainly = ["decoupling.unlock=none", "optimizer.name=sgd", "optimizer.learning_rate=0.5"]
    config, dataset = load([*text, *plainly, "downpour.n_push=1"])
    run = Driver(config, dataset, trains=True)
    play(run)
    assert_learned_plainly(run, config, dataset, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unlock", UNLOCKS)
def test_under_every_unlock_two_recurrent_layers_learn_and_lose_no_state(
    text: list[str], unlock: str
) -> None:
    config, dataset = load([*text, f"decoupling.unlock={unlock}"])
    run = Driver(config, dataset, trains=True)
    play(run)
    evaluator = Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets))
    measured = evaluator.measure(evaluator.pull(run.pull))
    # Of 20 equally likely characters: 4.3 bits.
    assert measured.metrics["bits_per_token"] < 3.6
    assert run.status().lost_states == 0


def test_replicas_have_streams_of_their_own_and_a_warm_start_hands_groups_over_without_their_states(
    text: list[str],
) -> None:
    more = ["downpour.replicas=[2, 1]", "decoupling.unlock=delayed", "downpour.push=gradient"]
    config, dataset = load([*text, *more])
    assert config.groups == 2
    run = Driver(config, dataset, trains=True)
    play(run)
    assert run.status().lost_states == 0
    config, dataset = load([*text, *more, "downpour.warm_start=20"])
    run = Driver(config, dataset, trains=True)
    play(run)
    # Replica 1 of the first layer takes group 1 over in the midst of an epoch; and the layer above, from
    # which the warm start keeps nothing, gets its first window before those of replica 0.
    assert [seat.telemetry.lost_states for seat in run.seats()] == [0, 8, 8]


def test_a_successor_without_a_backup_goes_on_from_zeros_and_its_streams_are_counted(text: list[str]) -> None:
    config, dataset = load([*text, "decoupling.unlock=none"])
    whole = Driver(config, dataset, trains=True)
    play(whole)
    config, dataset = load(
        [*text, "decoupling.unlock=none", f'simulation.deaths={{"2.0"={whole.seconds / 2}}}']
    )
    run = Driver(config, dataset, trains=True)
    play(run)
    assert run.deaths == 1
    assert run.status().lost_states == config.run.batch_size


def test_an_evaluation_carries_the_state_over_the_test_stream(text: list[str]) -> None:
    config, dataset = load([*text, "run.batches=30", "cluster.profile=synchronous"])
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
    config, dataset = load([*text, "run.batches=30", "cluster.profile=synchronous"])
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
    config, dataset = load([*text, *units, "decoupling.unlock=delayed", "run.batches=60"])
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
        ({"size": "'four'"}, r"unit 3 \(Sum\(\)\) has state_size = 'four'; give the numbers of state "),
        ({"size": "0"}, r"unit 3 \(Sum\(\)\) has state_size = 0; "),
    ],
)
def test_a_network_without_a_state_is_refused(
    text: list[str], tmp_path: Path, changes: dict[str, str], refusal: str
) -> None:
    with pytest.raises(ConfigError, match=refusal):
        load([*text, *own(tmp_path, **changes)])


def test_a_next_state_of_another_form_is_refused_before_the_start(text: list[str], tmp_path: Path) -> None:
    config, dataset = load([*text, *own(tmp_path, after="sums[:, -1, :2]")])
    with pytest.raises(ConfigError, match=r"next state as float32 \(8, 2\); it must give float32 \(8, 4\)$"):
        rehearse(config, dataset, 1 << 26)
    rehearse(*load([*text, *own(tmp_path)]), 1 << 26)


def test_a_unit_that_changes_the_state_before_is_refused_before_the_start(
    text: list[str], tmp_path: Path
) -> None:
    config, dataset = load([*text, *own(tmp_path, after="state.add_(x['h'].detach().sum(1))")])
    with pytest.raises(ConfigError, match=r"unit 3 \(Sum\(\)\), .* changes the state that it takes in place"):
        rehearse(config, dataset, 1 << 26)
