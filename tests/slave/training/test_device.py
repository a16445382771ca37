"""slave.training.device: the choice of a device, and copies that nobody uses before they are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from common.config.optimizer import OptimizerConfig
from common.config.sections import Config
from common.errors import ConfigError
from common.models import network
from common.signals.values import plain, split
from common.wire.boundary import Down, Ended, Message, Up
from common.wire.messages import HeartbeatReply, JoinReply
from common.wire.signals import from_wire, to_wire
from slave.training import layers
from slave.training.device import IN_MEMORY, Leaving, Transfers, choose_device
from slave.training.worker import Effect, Send, Worker
from tests.slave.chain import configured, digits
from tests.slave.training.racing_device import RacingDevice

SIGNAL = {
    "words": torch.arange(12).view(4, 3),
    "mask": torch.tensor([[True], [False], [True], [True]]),
    "h": torch.rand(4, 5),
    "maps": torch.rand(4, 2, 3, 3),
}


@pytest.mark.parametrize(("place", "name"), [(0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")])
def test_slaves_of_a_machine_take_the_gpus_by_turns(
    monkeypatch: pytest.MonkeyPatch, place: int, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", place) == torch.device(name)


def test_without_a_gpu_auto_is_the_cpu_and_a_gpu_by_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto", 3) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"^--device cuda:0: torch sees 0 CUDA devices here"):
        choose_device("cuda:0")
    with pytest.raises(ConfigError, match=r"^--device gpu: is no device; use auto, cpu or cuda:N$"):
        choose_device("gpu")


def test_in_memory_nothing_is_copied() -> None:
    message = Up(3, SIGNAL)
    assert Transfers.of("cpu", configured()).arrive(SIGNAL) is SIGNAL
    assert IN_MEMORY.receive(message) is IN_MEMORY.leave(message) is message


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_signal_arrives_by_one_copy(channels_last: bool) -> None:
    with RacingDevice() as device:
        arrived = split(Transfers(device, channels_last=channels_last).arrive(SIGNAL))
        # The copy was waited for: a computation may begin.
        assert float(arrived["h"].sum()) == float(SIGNAL["h"].sum())
    assert device.made == 1
    assert list(arrived) == list(SIGNAL)
    for name, tensor in SIGNAL.items():
        assert torch.equal(arrived[name], tensor)
        assert arrived[name].dtype is tensor.dtype
    assert arrived["maps"].is_contiguous(memory_format=torch.channels_last) == channels_last


def test_a_message_leaves_by_one_copy_and_is_there_once_it_was_waited_for() -> None:
    with RacingDevice() as device:
        transfers = Transfers(device)
        message = Down(
            5, {"h": SIGNAL["h"] * 2}, {"h": SIGNAL["h"], "mask": SIGNAL["mask"]}, layer=2, incarnation=7
        )
        leaving = transfers.leave(message)
        assert isinstance(leaving, Leaving)
        assert device.made == 0
    landed = leaving.wait()
    assert device.made == 1
    assert (landed.batch, landed.layer, landed.incarnation) == (5, 2, 7)
    assert isinstance(landed, Down)
    assert torch.equal(split(landed.delta)["h"], SIGNAL["h"] * 2)
    assert landed.u is not None
    assert torch.equal(split(landed.u)["mask"], SIGNAL["mask"])
    again = transfers.receive(landed)
    assert torch.equal(split(again.carried()["delta"])["h"], SIGNAL["h"] * 2)


def test_a_message_without_tensors_needs_no_copy() -> None:
    message = Ended(0)
    assert Transfers(RacingDevice()).leave(message) is message
    assert Transfers(RacingDevice()).receive(message) is message


def test_the_racing_device_catches_use_before_an_event() -> None:
    with RacingDevice() as device:
        there, event = device.bring(torch.ones(4, dtype=torch.uint8))
        with pytest.raises(AssertionError, match="whose copy was not waited for"):
            there + 1
        device.wait(event, there)
        assert int((there + 1).sum()) == 8


def test_the_racing_device_catches_an_event_that_is_too_early_and_a_change_under_a_copy() -> None:
    with RacingDevice() as device:
        early = device.record()
        computed = torch.zeros(4, dtype=torch.uint8) + 3
        landed = device.allocate_pinned(4)
        with pytest.raises(AssertionError, match="not computed at the event"):
            device.take(landed, computed, early)
        copied = device.take(landed, computed, device.record())
        computed.add_(1)
        with pytest.raises(AssertionError, match="has changed under its copy"):
            copied.synchronize()


@pytest.mark.parametrize("unlock", ["none", "update", "delayed", "local", "full"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_layers_on_a_device_with_late_copies_train_to_the_same_weights(model: str, unlock: str) -> None:
    options: dict[str, object] = {"widths": [6, 6]} if model == "mlp" else {"channels": [3, 4]}
    in_flight = None if unlock in ("none", "full") else 2
    # Adam's first steps are as long for rounding as for gradients.
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.1)
    config = configured(
        model=model, options=options, batches=6, unlock=unlock, in_flight=in_flight, optimizer=optimizer
    )
    expected = train(config, IN_MEMORY)
    with RacingDevice() as device:
        weights = train(config, Transfers(device, channels_last=True))
    assert device.made > 6 * config.layers
    for own, other in zip(weights, expected, strict=True):
        # Other places in memory of the channels change the order of a convolution's sums.
        assert torch.allclose(own, other, atol=1e-5) if model == "cnn" else torch.equal(own, other)


def train(config: Config, transfers: Transfers, device: str = "cpu") -> list[Tensor]:
    """Train all layers in this thread, message by message as between processes; return the weights."""
    torch.manual_seed(0)
    blueprint = network.build_initial(config, digits().inputs, digits().targets)
    with patch.object(Transfers, "of", return_value=transfers):
        leases = [JoinReply(layer=k) for k in range(1, config.layers + 1)]
        built = [layers.build(config, blueprint, digits(), lease, None, device) for lease in leases]
    workers = [Worker(layer) for layer in built]
    for worker in workers:
        list(worker.handle(HeartbeatReply(begin=True)))
    under_way: deque[Message | Leaving] = deque()

    def carry_out(effects: Iterable[Effect]) -> None:
        under_way.extend(transfers.leave(each.message) for each in effects if isinstance(each, Send))

    while min(worker.trainer.next_batch for worker in workers) < config.run.batches:
        for worker in workers:
            if worker.can_advance:
                carry_out(worker.advance())
        # Copies of two messages are under way while the layers compute.
        while len(under_way) > (2 if any(worker.can_advance for worker in workers) else 0):
            sent = under_way.popleft()
            message = from_wire(to_wire(sent.wait() if isinstance(sent, Leaving) else sent))
            carry_out(workers[message.layer - 1].handle(transfers.receive(message)))
    return [worker.trained.layer.flat.parameters.clone() for worker in workers]


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.mark.cuda
@cuda
def test_a_gpu_brings_and_takes_signals_behind_its_own_work() -> None:
    device = torch.device("cuda:0")
    transfers = Transfers.of(device, configured())
    for turn in range(50):
        x = torch.rand(256, 1024)
        there = plain(transfers.arrive(x))
        product = there @ there.T
        leaving = transfers.leave(Up(turn, product))
        # Work behind the copy, which must not wait for it, nor disturb it.
        product = product @ product
        assert isinstance(leaving, Leaving)
        landed = leaving.wait()
        assert isinstance(landed, Up)
        assert torch.allclose(plain(landed.h), x @ x.T, rtol=1e-3, atol=1e-2)


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("unlock", ["update", "delayed", "full"])
def test_layers_on_a_gpu_train_to_the_weights_of_a_cpu(unlock: str) -> None:
    config = configured(options={"widths": [6, 6]}, batches=6, unlock=unlock)
    expected = train(config, IN_MEMORY)
    weights = train(config, Transfers.of("cuda:0", config), "cuda:0")
    for own, other in zip(weights, expected, strict=True):
        assert torch.allclose(own.cpu(), other, atol=1e-4)
