"""Large pushes: two at a time are held in memory, and a stalled push does not keep further pushes out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from common.wire.payloads import CHUNK_BYTES
from master.servicers.large_pushes import LARGE_PUSHES
from tests.integration.processes import until
from tests.master.large import chunks, second_port, served_large
from tests.master.served import Client, Served

STALLED_SECONDS = 0.3


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    with served_large(tmp_path) as running:
        yield running


@pytest.fixture
def impatient(master: Served) -> Iterator[Client]:
    """Client of a second data port, where a push may not stand still for long."""
    with second_port(master, STALLED_SECONDS) as client:
        yield client


def test_a_third_large_push_waits_until_one_of_two_is_in(master: Served) -> None:
    received = master.master.run.tally
    with ExitStack() as stack:
        streams = [stack.enter_context(master.client.pushing()) for _ in range(3)]
        for layer in range(1, LARGE_PUSHES + 1):
            streams[layer - 1].write(*chunks(layer)[:-1])
        until(lambda: received.bytes_received == 2 * LARGE_PUSHES * CHUNK_BYTES)
        streams[2].write(*chunks(3))
        # Its first chunk tells whose it is; the others stay where they are.
        until(lambda: received.bytes_received == (2 * LARGE_PUSHES + 1) * CHUNK_BYTES)
        until(lambda: len(master.ports.parameters._large_pushes._permits._waiting) == 1)
        assert received.bytes_received == (2 * LARGE_PUSHES + 1) * CHUNK_BYTES
        streams[0].write(chunks(1)[-1])
        for which in (0, 2):
            assert streams[which].read().applied
        streams[1].write(chunks(2)[-1])
        assert streams[1].read().applied
    assert master.master.store.versions() == {f"{layer}/weights": 1 for layer in (1, 2, 3)}


def test_pushes_that_stand_still_are_dropped_and_change_nothing(master: Served, impatient: Client) -> None:
    with impatient.pushing() as first, impatient.pushing() as second:
        for layer, stream in ((1, first), (2, second)):
            stream.write(*chunks(layer)[:-1])
        with impatient.pushing() as third:
            third.write(*chunks(3))
            assert third.read().applied
        for stream in (first, second):
            with pytest.raises(grpc.RpcError, match="came to a standstill") as refused:
                stream.read()
            assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert master.master.store.versions() == {"1/weights": 0, "2/weights": 0, "3/weights": 1}
    # Sent again, as the slave does by itself, it counts.
    (reply,) = impatient.push(chunks(1))
    assert (reply.version, reply.applied) == (1, True)


def test_between_two_pushes_a_stream_may_be_silent_for_as_long_as_it_likes(impatient: Client) -> None:
    with impatient.pushing() as stream:
        stream.write(*chunks(1))
        assert stream.read().applied
        time.sleep(2 * STALLED_SECONDS)
        stream.write(*chunks(1))
        assert not stream.read().applied
