"""slave.network.network: a layer that has diverged fails by itself, with advice."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from common.errors import RunFailedError
from common.wire.boundary import Down, Message, Up
from common.wire.messages import JoinReply, Telemetry
from slave.network.meter import Meter
from slave.network.network import Network

LEASE = JoinReply(True, False, 2, 0, 5, 0, "run")


class Wire:
    """Endpoint that keeps what is handed over."""

    master = "127.0.0.1:1"
    identity = None
    run = ""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def post(self, _: object, message: Message, *__: object) -> None:
        self.sent.append(message)


def hand_over(*messages: Message) -> tuple[list[Message], list[Any]]:
    """Pass messages of the training thread on; returns those sent, and the events for the training thread."""
    wire = Wire()
    network = Network(wire, LEASE, 1.0, 1.0, Telemetry, Meter())  # type: ignore[arg-type]
    network._links = type("Links", (), {"send": None})()
    for message in messages:
        network.send(message)
    network._outgoing.put(None)
    network._hand_over()
    events = []
    while not network.inbox.empty():
        events.append(network.inbox.get())
    return wire.sent, events


def test_finite_messages_leave() -> None:
    sent, events = hand_over(Up(1, torch.ones(2, 3)), Down(1, torch.ones(2, 3)))
    assert (len(sent), events) == (2, [])


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("kind", [Up, Down])
def test_a_layer_whose_numbers_are_not_finite_sends_nothing_and_fails_with_advice(
    kind: type[Up] | type[Down], number: float
) -> None:
    sent, (error,) = hand_over(kind(7, torch.tensor([[1.0, number]])), Up(8, torch.ones(1, 2)))
    assert sent == []
    assert isinstance(error, RunFailedError)
    assert str(error).startswith(f"layer 2: {kind.kind.name} of batch 7 has NaN or Inf")
    assert "lower optimizer.learning_rate" in str(error)
