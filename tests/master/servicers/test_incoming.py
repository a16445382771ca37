"""Large pushes: applied while frames come in, once, and without holding other pushes up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from common.shards.narrow import encode
from common.shards.table import Precision
from common.wire.messages import JoinReply
from common.wire.payloads import CHUNK_BYTES
from master.servicers import parameters
from protos import layerwise_pb2 as pb
from tests.master.pushes import parameters as table_of_parameters
from tests.master.served import Client, Served, Stream, served

COUNT = 3 * CHUNK_BYTES // 4
PIECE = CHUNK_BYTES // 2


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    """Master of layers with two replicas."""
    with served(tmp_path, "downpour.replicas=2", 'downpour.push="update"') as running:
        yield running


@pytest.fixture
def client(master: Served) -> Client:
    """Foreign client of the data port."""
    return master.client


def replicas(master: Served) -> list[JoinReply]:
    """Layer 1's two leases."""
    leases = [master.join(f"slave {i}") for i in range(6)]
    return [lease for lease in leases if lease.layer == 1]


def cut(data: bytes, operation: int, lease: JoinReply, sequence: int) -> list[Any]:
    """A push in pieces, the header with the first."""
    spec = pb.TensorSpec(name="weight", dtype="float32", shape=[COUNT], kind="parameter")
    header = pb.Header(
        shard="1/weights",
        operation=operation,  # type: ignore[arg-type]
        incarnation=lease.incarnation,
        replica=lease.replica,
        sequence=sequence,
        table=pb.Table(tensors=[spec], nbytes=4 * COUNT),
    )
    pieces = [pb.Frame(offset=at, data=data[at : at + PIECE]) for at in range(0, len(data), PIECE)]
    pieces[0].header.CopyFrom(header)
    return pieces


def ones(lease: JoinReply, sequence: int, value: float = 1.0) -> list[Any]:
    return cut(np.full(COUNT, value, np.float32).tobytes(), pb.UPDATE, lease, sequence)


def created(master: Served) -> list[JoinReply]:
    """Create a shard of zeros; returns the leases of two slaves."""
    slaves = replicas(master)
    (reply,) = master.client.push(cut(bytes(4 * COUNT), pb.CREATE, slaves[0], 0))
    assert reply.applied
    return slaves


def contents(client: Client) -> tuple[int, npt.NDArray[np.float32]]:
    frames = list(client.pull("1/weights"))
    numbers = np.frombuffer(b"".join(each.data for each in frames), np.float32)
    return frames[0].header.version, numbers


def assert_is(client: Client, version: int, value: float) -> None:
    found, numbers = contents(client)
    assert (found, numbers.min(), numbers.max()) == (version, value, value)


def half_sent(client: Client, frames: list[Any]) -> Stream:
    """Send half of a push, which is being applied."""
    stream = client.pushing()
    stream.write(*frames[: len(frames) // 2])
    return stream


def test_half_a_push_is_not_to_be_seen_and_the_whole_is_applied(master: Served, client: Client) -> None:
    first, _ = created(master)
    frames = ones(first, 1)
    with half_sent(client, frames) as stream:
        assert_is(client, 0, 0.0)
        stream.write(*frames[len(frames) // 2 :])
        assert stream.read().applied
    assert_is(client, 1, 1.0)


def test_a_push_that_stands_still_lets_others_in_and_is_applied_once_when_it_goes_on(
    master: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters, "PUSHER_SECONDS", 0.05)
    first, second = created(master)
    frames = ones(first, 1)
    with half_sent(client, frames) as stream:
        assert [reply.version for reply in client.push(ones(second, 1, 2.0) + ones(second, 2, 2.0))] == [1, 2]
        assert_is(client, 2, 4.0)
        stream.write(*frames[len(frames) // 2 :])
        reply = stream.read()
        assert (reply.applied, reply.version) == (True, 3)
    assert_is(client, 3, 5.0)
    (again,) = client.push(frames)
    assert not again.applied
    assert_is(client, 3, 5.0)


def test_a_push_whose_sender_is_gone_lets_others_in_at_once_and_can_be_sent_again(
    master: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters, "PUSHER_SECONDS", 600.0)
    first, second = created(master)
    frames = ones(first, 1)
    with half_sent(client, frames):
        pass
    assert client.push(ones(second, 1, 2.0))[0].applied
    assert client.push(frames)[0].applied
    assert_is(client, 2, 3.0)


def test_a_push_that_breaks_a_rule_halfway_lets_others_in_and_changes_nothing(
    master: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parameters, "PUSHER_SECONDS", 600.0)
    first, second = created(master)
    frames = ones(first, 1)
    with half_sent(client, frames) as stream:
        stream.write(frames[-1])
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert client.push(ones(second, 1, 2.0))[0].applied
    assert_is(client, 1, 2.0)


@pytest.mark.parametrize("where", [0, COUNT // 2, COUNT - 1])
def test_a_number_that_is_none_is_refused_wherever_it_stands(
    master: Served, client: Client, where: int
) -> None:
    first, second = created(master)
    numbers = np.ones(COUNT, np.float32)
    numbers[where] = np.nan
    with pytest.raises(grpc.RpcError) as caught:
        client.push(cut(numbers.tobytes(), pb.UPDATE, first, 1))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_is(client, 0, 0.0)
    assert client.push(ones(second, 1))[0].applied
    assert_is(client, 1, 1.0)


def test_a_push_sent_again_is_answered_without_its_being_applied(master: Served, client: Client) -> None:
    first, _ = created(master)
    replies = client.push(ones(first, 1) * 3)
    assert [reply.applied for reply in replies] == [True, False, False]
    assert_is(client, 1, 1.0)


def test_readers_see_one_version_while_pushes_come_in(master: Served, client: Client) -> None:
    first, second = created(master)
    with client.pushing() as one, client.pushing() as other:
        for sequence in range(1, 9):
            one.write(*ones(first, sequence))
            other.write(*ones(second, sequence))
        for _ in range(8):
            version, numbers = contents(client)
            assert numbers.min() == numbers.max() == version
            assert one.read().applied
            assert other.read().applied
    assert_is(client, 16, 16.0)


def narrow(lease: JoinReply, sequence: int, value: float, operation: int = pb.UPDATE) -> list[Any]:
    """A push in int8, large enough for several frames."""
    change = np.full(COUNT, value, np.float32)
    sent = encode(table_of_parameters(COUNT), change.view(np.uint8), Precision.INT8)
    frames = cut(sent.tobytes(), operation, lease, sequence)
    frames[0].header.precision = pb.INT8
    return frames


def test_a_narrow_push_in_several_frames_is_applied_once(master: Served, client: Client) -> None:
    first, second = created(master)
    frames = narrow(first, 1, 127.0)
    assert 1 < len(frames) < len(ones(first, 1))
    with half_sent(client, frames) as stream:
        # Kept in memory: others need not wait.
        assert client.push(ones(second, 1, 2.0))[0].applied
        stream.write(*frames[len(frames) // 2 :])
        assert stream.read().applied
    assert_is(client, 2, 129.0)
    assert not client.push(frames)[0].applied
    assert_is(client, 2, 129.0)


def test_a_creation_is_not_narrow_and_a_precision_that_nobody_knows_is_refused(
    master: Served, client: Client
) -> None:
    slaves = replicas(master)
    strange = cut(bytes(4 * COUNT), pb.CREATE, slaves[0], 0)
    strange[0].header.precision = 7
    for frames in (narrow(slaves[0], 0, 1.0, pb.CREATE), strange):
        with pytest.raises(grpc.RpcError) as caught:
            client.push(frames)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
