"""Parameters by the slave's client: bytes, refusals, effects, and pushes that land in the idle buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from common.bounds import LARGEST_PIECE_MESSAGE_BYTES
from common.credentials import Credentials
from common.errors import (
    FencedError,
    LayerwiseError,
    MalformedError,
    NotFoundError,
    UnprovenError,
    UnreachableError,
)
from common.net.addresses import split_address
from common.net.data.callers import Requests
from common.net.data.client import DataClient, pull
from common.net.data.server import DataServer
from common.shards.pushes import Header, Operation, PullRequest, PushReply
from common.shards.table import Table, lay_out
from common.wire.messages import JoinReply
from common.wire.methods import PUSH, STATUS
from common.wire.payloads import CHUNK_BYTES, frame_parts, frames
from master.servicers import parameters
from master.servicers.parameters import IncomingPush
from tests.common.net.certificates import Contexts, contexts
from tests.master.served import DEADLINE, Served, served

COUNT = CHUNK_BYTES  # four chunks of it
LARGE = lay_out([("weight", "float32", (COUNT,), "parameter")])
# A gap of 4 bytes behind the parameter, one of 5 within the buffers.
GAPS = lay_out(
    [("w", "float32", (COUNT + 1,), "parameter"), ("b", "bool", (3,), "buffer"), ("n", "int64", (), "buffer")]
)  # fmt: skip


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


@pytest.fixture(params=["plain", "tls"])
def client(master: Served, request: pytest.FixtureRequest) -> Iterator[DataClient]:
    """Slave's own client of a data port, in the clear and over TLS."""
    tls = contexts() if request.param == "tls" else Contexts()
    server = DataServer(master.master.run.tally.count_error, tls=tls.server)
    master.ports.parameters.register(server)
    port = server.start("127.0.0.1", 0)
    calling = DataClient(lambda: ("127.0.0.1", port), Credentials(1), tls.client)
    yield calling
    calling.drop()
    server.stop()


def header(lease: JoinReply, sequence: int = 1, table: Table = LARGE) -> Header:
    operation = Operation.UPDATE if sequence else Operation.CREATE
    return Header("1/weights", operation, 0, lease.incarnation, sequence, 10 * sequence, table)


def send(call: Any, header: Header, numbers: Any) -> PushReply:
    for frame in frames(header, np.ascontiguousarray(numbers).data):
        call.send(*frame_parts(frame))
    reply: PushReply = PUSH.reply.decode(bytes(call.read(DEADLINE)))
    return reply


def ones(value: float = 1.0) -> Any:
    return np.full(COUNT, value, np.float32)


def created(master: Served, table: Table = LARGE) -> JoinReply:
    lease = master.join("a")
    master.master.parameters.push(header(lease, 0, table), [(0, memoryview(bytes(table.nbytes)))])
    return lease


def contents(client: DataClient) -> tuple[int, Any]:
    found, buffer = pull(client, PullRequest("1/weights"), DEADLINE)
    return found.version, np.frombuffer(buffer, np.float32)


def test_what_is_pushed_is_pulled(master: Served, client: DataClient) -> None:
    lease, random = master.join("a"), np.random.default_rng(0).normal(size=COUNT).astype(np.float32)
    with client.call(PUSH) as call:
        assert send(call, header(lease, 0), random).applied
        assert [send(call, header(lease, s), ones()).version for s in (1, 2)] == [1, 2]
        assert not send(call, header(lease, 2), ones()).applied
        call.end()
    version, numbers = contents(client)
    assert version == 2
    assert np.array_equal(numbers, random + 1.0 + 1.0)
    small, data = pull(client, PullRequest("1/weights", lease.incarnation), DEADLINE)
    assert (small.sequence, len(data)) == (2, LARGE.nbytes)


REFUSALS: dict[str, tuple[type[LayerwiseError], dict[str, Any]]] = {
    "another lease": (UnprovenError, {"incarnation": 99}),
    "no such shard": (NotFoundError, {"shard": "1/gradient"}),
    "another layer's": (MalformedError, {"shard": "2/weights"}),
    "another table": (MalformedError, {"table": lay_out([("v", "float32", (COUNT,), "parameter")])}),
    "no push": (MalformedError, {"sequence": 0}),
}


@pytest.mark.parametrize("which", REFUSALS)
def test_a_refused_push_raises_its_error_and_the_next_call_is_taken(
    master: Served, client: DataClient, which: str
) -> None:
    lease = created(master)
    kind, changes = REFUSALS[which]
    with pytest.raises(LayerwiseError) as caught, client.call(PUSH) as call:
        send(call, replace(header(lease), **changes), ones())
    assert type(caught.value) is kind
    counted = master.master.run.tally
    assert counted.fenced + counted.malformed == (kind is MalformedError)
    assert contents(client)[0] == 0


def test_a_pull_of_a_missing_shard_is_refused(master: Served, client: DataClient) -> None:
    with pytest.raises(NotFoundError, match='there is no shard "1/weights"; known are'):
        contents(client)


def test_where_nobody_listens_is_said(master: Served) -> None:
    nobody = DataClient(lambda: ("127.0.0.1", 1))
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: the port for shards"):
        contents(nobody)


def test_what_is_not_served_and_what_is_too_large_get_their_codes(master: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        master.client.unary(STATUS.path, b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    master.join("a")
    with pytest.raises(grpc.RpcError) as caught:
        master.client.push([bytes(LARGEST_PIECE_MESSAGE_BYTES + 1)])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- pushes that are received where they will be ----------------------------------------------------------


@pytest.fixture
def landing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every large push land, however slow the machine; no push is kept in memory."""
    monkeypatch.setattr(parameters, "PUSHER_SECONDS", 2 * DEADLINE)
    apply = IncomingPush.apply
    monkeypatch.setattr(IncomingPush, "apply", lambda self, _, permits: apply(self, 0.0, permits))


@pytest.mark.usefixtures("landing")
def test_pushes_land_in_the_idle_buffer_one_after_the_other(
    master: Served, client: DataClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = created(master)
    monkeypatch.delattr(IncomingPush, "_receive_all")
    with client.call(PUSH) as call:
        assert [send(call, header(lease, s), ones(s)).version for s in (1, 2, 3)] == [1, 2, 3]
    version, numbers = contents(client)
    assert (version, numbers.min(), numbers.max()) == (3, 6.0, 6.0)


@pytest.mark.usefixtures("landing")
def test_a_push_that_was_applied_before_is_received_and_leaves_no_trace(
    master: Served, client: DataClient
) -> None:
    lease = created(master)
    with client.call(PUSH) as call:
        replies = [send(call, header(lease, sequence), ones()) for sequence in (1, 1, 2)]
    assert [reply.applied for reply in replies] == [True, False, True]
    assert contents(client)[1].max() == 2.0


@pytest.mark.usefixtures("landing")
@pytest.mark.parametrize("where", [0, COUNT // 2, COUNT - 1])
def test_a_nan_leaves_the_shard_as_it_was(master: Served, client: DataClient, where: int) -> None:
    lease, wrong = created(master), ones()
    wrong[where] = np.nan
    with pytest.raises(MalformedError, match="NaN"), client.call(PUSH) as call:
        send(call, header(lease), wrong)
    assert contents(client)[0] == 0
    with client.call(PUSH) as call:
        assert send(call, header(lease), ones()).applied
    assert contents(client)[1].min() == 1.0


@pytest.mark.usefixtures("landing")
def test_gaps_between_tensors_stay_zeros_whatever_is_pushed_there(master: Served, client: DataClient) -> None:
    lease = created(master, GAPS)
    pushed = np.zeros(GAPS.nbytes, np.uint8)
    pushed[GAPS.parameters_nbytes :] = 1
    with client.call(PUSH) as call:
        assert send(call, header(lease, 1, GAPS), pushed).applied
    _, buffer = pull(client, PullRequest("1/weights"), DEADLINE)
    covered = np.zeros(GAPS.nbytes, bool)
    for spec in GAPS.tensors:
        covered[spec.offset : spec.offset + spec.nbytes] = True
    assert not covered.all()
    assert not np.frombuffer(buffer, np.uint8)[~covered].any()


@pytest.mark.parametrize("lands", [False, True])
def test_a_push_carries_no_byte_of_the_frozen_tensors(
    master: Served, client: DataClient, monkeypatch: pytest.MonkeyPatch, lands: bool
) -> None:
    if lands:
        monkeypatch.setattr(parameters, "PUSHER_SECONDS", 2 * DEADLINE)
        apply = IncomingPush.apply
        monkeypatch.setattr(IncomingPush, "apply", lambda self, _, permits: apply(self, 0.0, permits))
    table = lay_out([("f", "float32", (2 * COUNT,), "frozen"), ("w", "float32", (COUNT,), "parameter")])
    lease = master.join("a")
    first = np.arange(3 * COUNT, dtype=np.float32)
    with client.call(PUSH) as call:
        assert send(call, header(lease, 0, table), first).applied
        received = master.master.run.tally.bytes_received
        assert [send(call, header(lease, s, table), ones()).version for s in (1, 2, 3)] == [1, 2, 3]
        assert master.master.run.tally.bytes_received - received == 3 * 4 * COUNT
        call.end()
    version, numbers = contents(client)
    assert version == 3
    assert np.array_equal(numbers[:COUNT], first[:COUNT] + 1.0 + 1.0 + 1.0)
    assert np.array_equal(numbers[COUNT:], first[COUNT:])


@pytest.mark.parametrize("count", [4, COUNT])
def test_a_pull_may_leave_out_the_frozen_tensors(master: Served, client: DataClient, count: int) -> None:
    table = lay_out([("f", "float32", (2 * COUNT,), "frozen"), ("w", "float32", (count,), "parameter")])
    lease = master.join("a")
    first = np.arange(count + 2 * COUNT, dtype=np.float32)
    with client.call(PUSH) as call:
        send(call, header(lease, 0, table), first)
        call.end()
    sent = master.master.run.tally.bytes_sent
    found, buffer = pull(client, PullRequest("1/weights", lease.incarnation, moving=True), DEADLINE)
    assert (found.operation, found.table, found.nbytes) == (Operation.MOVING, table, 4 * count)
    assert np.array_equal(np.frombuffer(buffer, np.float32), first[:count])
    assert master.master.run.tally.bytes_sent - sent < 4 * count + 1000


def test_the_answer_to_a_pull_is_no_push(master: Served, client: DataClient) -> None:
    lease = created(master)
    for operation in (Operation.VALUE, Operation.MOVING):
        answer = replace(header(lease, 1), operation=operation)
        with pytest.raises(MalformedError, match="is no push"), client.call(PUSH) as call:
            send(call, answer, ones())


def test_a_push_that_reaches_into_the_frozen_tensors_is_refused(master: Served, client: DataClient) -> None:
    table = lay_out([("w", "float32", (4,), "parameter"), ("f", "float32", (4,), "frozen")])
    lease = created(master, table)
    with (
        pytest.raises(MalformedError, match=r"a piece of 32 bytes .* of 16"),
        client.call(PUSH) as call,
    ):
        send(call, header(lease, 1, table), np.ones(8, np.float32))
    assert contents(client)[0] == 0


def test_one_that_stands_still_is_dropped_and_the_next_time_kept_in_memory(
    master: Served, client: DataClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = created(master)
    apply = IncomingPush.apply
    with monkeypatch.context() as patched:
        patched.setattr(parameters, "PUSHER_SECONDS", 0.3)
        patched.setattr(IncomingPush, "apply", lambda self, _, permits: apply(self, 0.0, permits))
        with pytest.raises(UnreachableError, match="came to a standstill"):
            half_of(client, header(lease))
    monkeypatch.delattr(IncomingPush, "_land")
    with client.call(PUSH) as call:
        assert send(call, header(lease), ones()).applied
    assert contents(client)[1].min() == 1.0


def half_of(client: DataClient, header: Header) -> None:
    with client.call(PUSH) as call:
        for frame in itertools.islice(frames(header, ones().data), 2):
            call.send(*frame_parts(frame))
        call.read(DEADLINE)


def test_a_fenced_caller_is_refused_by_its_header_before_a_push_is_read(
    master: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = created(master)
    master.leave(lease.incarnation)
    read: list[object] = []
    monkeypatch.setattr(Requests, "read", lambda messages: read.append(messages))
    caller = DataClient(lambda: split_address(master.data_address), master.shown(lease.incarnation))
    try:
        with pytest.raises(FencedError, match="holds no lease"):
            _finish(caller)
    finally:
        caller.drop()
    assert not read
    assert master.master.status().counters.fenced == 1


def _finish(caller: DataClient) -> None:
    with caller.call(PUSH) as call:
        call._await(DEADLINE)
        call._finish()
