"""RPCs of the master over real channels: invalid calls get the documented status and change no state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from common.config.files import load, parse
from common.credentials import NOBODY, Credentials
from common.errors import FencedError, RefusedError
from common.net import control
from common.wire import methods
from common.wire.messages import (
    DescribeRequest,
    Evaluation,
    HeartbeatRequest,
    StatusReply,
    StatusRequest,
    Telemetry,
)
from common.wire.payloads import CHUNK_BYTES
from protos import layerwise_pb2 as pb
from tests.integration.processes import until
from tests.master.served import Client, Served, call_raw, served

CREATE, UPDATE, VALUE = pb.CREATE, pb.UPDATE, pb.VALUE


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


@pytest.fixture
def client(master: Served) -> Client:
    """Foreign client of the data port."""
    return master.client


def table(count: int) -> Any:
    spec = pb.TensorSpec(name="weight", dtype="float32", shape=[count], kind="parameter")
    return pb.Table(tensors=[spec], nbytes=4 * count)


def header(count: int, operation: int = UPDATE, incarnation: int = 1, sequence: int = 1, **more: Any) -> Any:
    made: dict[str, Any] = {"shard": "1/weights", "next_batch": 10 * sequence, "table": table(count), **more}
    return pb.Header(operation=operation, incarnation=incarnation, sequence=sequence, **made)  # type: ignore[arg-type]


def frame(numbers: Any, operation: int = UPDATE, incarnation: int = 1, sequence: int = 1, **more: Any) -> Any:
    """Whole push in a single frame."""
    data = np.atleast_1d(np.asarray(numbers, np.float32))
    made = header(data.size, operation, incarnation, sequence, **more)
    return pb.Frame(header=made, data=data.tobytes())


def numbers(client: Client, shard: str = "1/weights") -> tuple[int, list[float]]:
    """A shard's version and contents, pulled."""
    frames = list(client.pull(shard))
    data = b"".join(each.data for each in frames)
    return frames[0].header.version, np.frombuffer(data, np.float32).tolist()


def status(master: Served) -> StatusReply:
    return control.call(master.channel, methods.STATUS, StatusRequest())


def created(master: Served, contents: Any = (1.0, 2.0)) -> int:
    """Take layer 1's lease and create the shard; returns the incarnation."""
    incarnation = master.join("a").incarnation
    whole = frame(contents, CREATE, incarnation, 0)
    starts = range(CHUNK_BYTES, len(whole.data), CHUNK_BYTES)
    rest = [pb.Frame(offset=at, data=whole.data[at : at + CHUNK_BYTES]) for at in starts]
    whole.data = whole.data[:CHUNK_BYTES]
    (reply,) = master.client.push([whole, *rest])
    assert reply.applied
    return incarnation


# --- parameters -------------------------------------------------------------------------------------------


def test_a_client_of_generated_classes_creates_pushes_and_pulls(master: Served, client: Client) -> None:
    incarnation = created(master)
    first, second = client.push([frame((0.5, 0.5), sequence=s, incarnation=incarnation) for s in (1, 2)])
    assert (first.version, second.version, second.sequence, second.applied) == (1, 2, 2, True)
    (pulled,) = client.pull("1/weights", incarnation)
    assert pulled.header.operation == VALUE
    assert (pulled.header.version, pulled.header.sequence, pulled.header.next_batch) == (2, 2, 20)
    assert pulled.header.table == table(2)
    assert np.frombuffer(pulled.data, np.float32).tolist() == [2.0, 3.0]


def test_a_push_sent_again_is_answered_and_not_applied_again(master: Served, client: Client) -> None:
    created(master)
    replies = client.push([frame((1.0, 1.0))] * 3) + client.push([frame((1.0, 1.0))])
    assert [reply.applied for reply in replies] == [True, False, False, False]
    assert numbers(client) == (1, [2.0, 3.0])
    counters = status(master).counters
    assert (counters.pushes, counters.duplicate_pushes, counters.malformed) == (1, 3, 0)


def test_a_second_create_is_told_so_and_changes_nothing(master: Served, client: Client) -> None:
    created(master)
    (reply,) = client.push([frame((8.0, 9.0), CREATE, sequence=0)])
    assert not reply.applied
    assert numbers(client) == (0, [1.0, 2.0])


def test_a_large_shard_travels_in_chunks_both_ways(master: Served, client: Client) -> None:
    count = 3 * CHUNK_BYTES // 4 + 3
    contents = np.random.default_rng(0).normal(size=count).astype(np.float32)
    incarnation = master.join("a").incarnation

    def cut(operation: int, sequence: int, step: int) -> Iterator[Any]:
        yield pb.Frame(header=header(count, operation, incarnation, sequence))
        data = contents.tobytes()
        for start in range(0, len(data), step):
            yield pb.Frame(offset=start, data=data[start : start + step])

    client.push(cut(CREATE, 0, 1 << 20))
    client.push(cut(UPDATE, 1, 123_456))
    frames = list(client.pull("1/weights"))
    assert max(len(each.data) for each in frames) == CHUNK_BYTES
    assert [each.HasField("header") for each in frames] == [True, False, False, False]
    data = b"".join(each.data for each in frames)
    np.testing.assert_array_equal(np.frombuffer(data, np.float32), contents + contents)


def test_a_shard_of_no_tensors_is_a_shard(master: Served, client: Client) -> None:
    created(master, ())
    assert client.push([frame(())])[0].version == 1
    assert numbers(client) == (1, [])


OVERSIZED = pb.Frame(header=pb.Header(
    shard="1/weights", operation=CREATE, incarnation=1,
    table=pb.Table(nbytes=1 << 40, tensors=[
        pb.TensorSpec(name="w", dtype="float32", shape=[1 << 38], kind="parameter")
    ]),
))  # fmt: skip
TRUNCATED = frame((1.0, 1.0)).SerializeToString()[:-1]
HALF = pb.Frame(header=header(4), data=bytes(8))


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([pb.Frame(data=bytes(8))], "INVALID_ARGUMENT"),
        ([b"\xff\xff\xff"], "INVALID_ARGUMENT"),
        ([TRUNCATED], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), 0)], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), VALUE)], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), 77)], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), sequence=0)], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), shard="2/weights")], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), shard="1/secrets")], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), shard="01/weights")], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), CREATE, shard="../../weights")], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), CREATE, shard="")], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0, 1.0))], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0, 1.0), CREATE)], "INVALID_ARGUMENT"),
        ([frame((1.0, float("nan")))], "INVALID_ARGUMENT"),
        ([frame((3e38, float("inf")), CREATE, shard="1/gradient")], "INVALID_ARGUMENT"),
        ([pb.Frame(header=header(2), data=bytes(12))], "INVALID_ARGUMENT"),
        ([pb.Frame(header=header(2), offset=8, data=b"")], "INVALID_ARGUMENT"),
        ([pb.Frame(header=header(2)), pb.Frame(data=bytes(3)), pb.Frame(offset=3, data=bytes(5))],
         "INVALID_ARGUMENT"),
        ([pb.Frame(header=header(2), data=bytes(4))], "INVALID_ARGUMENT"),
        ([pb.Frame(header=header(2)), pb.Frame(header=header(2))], "INVALID_ARGUMENT"),
        ([frame((1.0, 1.0), CREATE, shard="1/input"), b"\x08"], "INVALID_ARGUMENT"),
        ([OVERSIZED], "RESOURCE_EXHAUSTED"),
        ([frame((1.0, 1.0), shard="1/gradient")], "NOT_FOUND"),
        ([frame((1.0, 1.0), incarnation=0)], "UNAUTHENTICATED"),
        ([frame((1.0, 1.0), incarnation=99)], "ABORTED"),
    ],
    ids=["no header", "garbage", "truncated", "no operation", "a pull's answer", "unknown operation",
         "sequence 0", "another's layer", "unknown kind", "another spelling", "path", "no name",
         "another table", "another table created", "nan", "inf created", "oversized data", "offset",
         "split number", "stream ends within", "two headers", "garbage after a good one", "oversized table",
         "no such shard", "no incarnation", "unknown incarnation"],
)  # fmt: skip
def test_a_wrong_push_gets_its_code_and_changes_nothing(
    master: Served, client: Client, frames: list[Any], code: str
) -> None:
    created(master)
    with pytest.raises(grpc.RpcError) as caught:
        client.push(frames)
    assert caught.value.code().name == code
    assert "\n" not in caught.value.details()
    assert numbers(client) == (0, [1.0, 2.0])
    made = {"1/input"} if len(frames) == 2 and frames[1] == b"\x08" else set()
    assert set(status(master).versions) == {"1/weights"} | made
    counters = status(master).counters
    assert (counters.malformed, counters.fenced) == {
        "ABORTED": (0, 1), "NOT_FOUND": (0, 0), "UNAUTHENTICATED": (0, 0),
    }.get(code, (1, 0))  # fmt: skip
    # And the master goes on.
    assert client.push([frame((1.0, 1.0))])[0].applied


def test_a_push_without_the_secret_of_its_lease_is_refused_before_it_is_read(master: Served) -> None:
    incarnation = created(master, np.zeros(1 << 15))
    count, ones = 1 << 15, np.ones(1 << 15, np.float32).tobytes()
    pushing, received = master.client._push(), master.master.run.tally.bytes_received
    for shown in (NOBODY, Credentials(incarnation), Credentials(incarnation, "0" * 32)):
        frames = iter([pb.Frame(header=header(count, incarnation=incarnation), data=ones)])
        with pytest.raises(grpc.RpcError) as caught:
            list(pushing(frames, metadata=shown.metadata()))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert master.master.run.tally.bytes_received == received
    assert numbers(master.client)[0] == 0


def test_pushes_before_a_wrong_one_stay_applied_and_answered(master: Served, client: Client) -> None:
    created(master)
    with client.pushing() as stream:
        stream.write(frame((1.0, 1.0)))
        assert stream.read().applied
        stream.write(frame((1.0, 1.0), sequence=2), pb.Frame(data=b"x"))
        assert stream.read().version == 2
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert numbers(client) == (2, [3.0, 4.0])


def test_a_sender_fenced_in_the_middle_of_its_push_changes_nothing(master: Served, client: Client) -> None:
    incarnation = created(master, (1.0, 2.0, 3.0, 4.0))
    with client.pushing() as stream:
        stream.write(frame((0.0,) * 4, sequence=1))
        assert stream.read().applied
        received = master.master.run.tally.bytes_received
        stream.write(pb.Frame(header=header(4, sequence=2), data=bytes(8)))
        # The first half is admitted before the lease ends: calls of two connections have no order.
        until(lambda: master.master.run.tally.bytes_received > received)
        master.leave(incarnation)
        stream.write(pb.Frame(offset=8, data=bytes(8)))
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
        assert caught.value.code() is grpc.StatusCode.ABORTED
    assert numbers(client)[0] == 1
    assert status(master).counters.fenced == 1


def test_a_pull_of_what_is_not_there_is_not_found(client: Client) -> None:
    for shard in ("1/weights", "", "../lock"):
        with pytest.raises(grpc.RpcError) as caught:
            list(client.pull(shard))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_pull_by_a_fenced_incarnation_is_refused(master: Served, client: Client) -> None:
    incarnation = created(master)
    master.leave(incarnation)
    with pytest.raises(grpc.RpcError) as caught:
        list(client.pull("1/weights", incarnation))
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert numbers(client) == (0, [1.0, 2.0])


def test_a_reader_that_stands_still_keeps_its_version_and_holds_up_no_push(
    master: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A push that waits for the reader comes too late.
    monkeypatch.setattr("master.store.shard.READER_SECONDS", 1e6)
    count = 8 * CHUNK_BYTES
    created(master, np.zeros(count))
    ones = np.ones(count, np.float32).tobytes()
    standing = client.pull("1/weights")
    seen = [next(standing)]
    for sequence in (1, 2):
        pieces = (
            pb.Frame(offset=i, data=ones[i : i + CHUNK_BYTES]) for i in range(0, 4 * count, CHUNK_BYTES)
        )
        client.push([pb.Frame(header=header(count, sequence=sequence)), *pieces])
    seen += standing
    # Every piece is of the version that the header said.
    assert sum(len(each.data) for each in seen) == 4 * count
    assert not any(any(each.data) for each in seen)


@pytest.mark.parametrize("method", [methods.PUSH, methods.PULL, methods.EXCHANGE], ids=lambda m: m.name)
def test_the_control_port_serves_no_parameters_and_no_boundary(master: Served, method: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call_raw(master.channel, method.path, b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- roster -----------------------------------------------------------------------------------------------

UNARY = [method for method in methods.METHODS if not method.streams_requests and not method.streams_replies]


@pytest.mark.parametrize("method", UNARY, ids=lambda method: method.name)
def test_a_unary_request_of_garbage_is_invalid(master: Served, method: Any) -> None:
    shown = replace(master.shown(master.join("a").incarnation), token=master.operator.token)
    for garbage in (b"\xff", b"\x0a\x7f", b"\x0f\x01", b"\x0a\x01a\xff"):
        with pytest.raises(grpc.RpcError) as caught:
            call_raw(master.channel, method.path, garbage, shown)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [seat.state for seat in status(master).seats] == ["training", "vacant", "vacant"]


def test_a_lease_is_asked_for_kept_given_back_and_then_fenced(master: Served) -> None:
    lease = master.join("a")
    assert (lease.granted, lease.layer, lease.replica) == (True, 1, 0)
    beat = HeartbeatRequest(lease.incarnation, 1, Telemetry(steps=3))
    assert not master.call(methods.HEARTBEAT, beat).over
    assert status(master).seats[0].telemetry.steps == 3
    master.leave(lease.incarnation)
    for call in (
        lambda: master.call(methods.HEARTBEAT, beat),
        lambda: master.leave(lease.incarnation),
    ):
        with pytest.raises(FencedError):
            call()
    assert status(master).counters.fenced == 2


def test_whatever_a_fenced_slave_still_sends_is_refused_and_counted(master: Served, client: Client) -> None:
    old = created(master)
    master.leave(old)

    def exchanged() -> None:
        with client.exchange() as stream:
            stream.write(hello(master, old, 2))
            stream.read()

    calls: list[Any] = [
        lambda: master.call(methods.HEARTBEAT, HeartbeatRequest(old, 2)),
        lambda: master.leave(old),
        lambda: client.push([frame((1.0, 1.0))]),
        lambda: list(client.pull("1/weights", old)),
        exchanged,
    ]
    for count, call in enumerate(calls, 1):
        with pytest.raises((FencedError, grpc.RpcError)) as caught:
            call()
        assert isinstance(caught.value, FencedError) or caught.value.code() is grpc.StatusCode.ABORTED
        assert status(master).counters.fenced == count


def test_a_join_is_told_the_first_batch_that_the_master_lacks(master: Served, client: Client) -> None:
    incarnation = created(master)
    client.push([frame((1.0, 1.0), sequence=1), frame((1.0, 1.0), sequence=2)])
    master.leave(incarnation)
    assert master.join("b").next_batch == 20


def test_a_slave_without_a_name_is_refused(master: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call_raw(master.channel, methods.JOIN.path, b"", master.joiner)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_configuration_is_described_as_it_is_run(master: Served) -> None:
    reply = control.call(master.channel, methods.DESCRIBE, DescribeRequest())
    assert parse(reply.config, "described") == load(None, ["network.cuts=[1, 2]"])
    assert not reply.over


def test_an_evaluation_that_is_reported_is_in_the_status(master: Served) -> None:
    evaluation = Evaluation(100, 3.5, 0.25, {"1/weights": 7})
    control.call(master.channel, methods.REPORT, evaluation, shown=master.operator)
    assert status(master).evaluation == evaluation


def test_a_run_is_over_when_every_layer_says_it_is_done(master: Served) -> None:
    leases = [master.join(name) for name in "abc"]
    done = [HeartbeatRequest(lease.incarnation, 1, Telemetry(done=True)) for lease in leases]
    assert [master.call(methods.HEARTBEAT, beat).over for beat in done] == [False, False, True]
    assert status(master).state == "done"
    assert master.join("d").over


def test_a_taken_port_is_refused(master: Served) -> None:
    with pytest.raises(RefusedError, match="is taken"):
        master.start_another()
    assert master.join("a").granted


# --- boundary ---------------------------------------------------------------------------------------------


def hello(master: Served, incarnation: int, layer: int) -> Any:
    """What a slave says first, in a call for its neighbour in a layer."""
    run = master.master.relay._run
    return pb.BoundaryMessage(kind=pb.PAIR, layer=layer, incarnation=incarnation, run=run)


def activation(layer: int, batch: int = 0, incarnation: int = 1) -> Any:
    tensors = pb.Table(
        tensors=[pb.TensorSpec(name="tensor", dtype="float32", shape=[2, 1], kind="buffer")], nbytes=8
    )
    return pb.BoundaryMessage(
        kind=pb.ACTIVATION,
        layer=layer,
        batch=batch,
        incarnation=incarnation,
        table=tensors,
        data=bytes(range(8)),
    )


def called(master: Served, client: Client, incarnation: int, layer: int) -> Any:
    """A call for the neighbour in a layer."""
    stream = client.exchange()
    stream.write(hello(master, incarnation, layer))
    return stream


@contextmanager
def paired(master: Served, client: Client, lower: int, upper: int) -> Iterator[tuple[Any, Any]]:
    """The calls of layers 1 and 2, which have got each other's hello."""
    with called(master, client, lower, 2) as below, called(master, client, upper, 1) as above:
        for stream, caller, layer in ((below, upper, 1), (above, lower, 2)):
            found = stream.read()
            assert (found.kind, found.layer, found.incarnation) == (pb.PAIR, layer, caller)
            assert found.run == hello(master, caller, layer).run
        yield below, above


def code_of(stream: Any) -> str:
    """Status at the end of a stream."""
    try:
        while stream.read() is not None:
            pass
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@pytest.fixture
def leases(master: Served) -> tuple[int, int]:
    """Incarnations of layers 1 and 2."""
    return master.join("a").incarnation, master.join("b").incarnation


def test_messages_reach_the_neighbour_as_they_were_sent_each_way(
    master: Served, client: Client, leases: tuple[int, int]
) -> None:
    with paired(master, client, *leases) as (below, above):
        below.write(activation(2, 5), activation(2, 6))
        assert above.read() == activation(2, 5)
        assert above.read() == activation(2, 6)
        gradient = activation(1, 5)
        gradient.kind = pb.GRADIENT
        above.write(gradient)
        assert below.read() == gradient


def test_a_message_for_an_absent_neighbour_is_dropped_and_the_stream_goes_on(
    master: Served, client: Client, leases: tuple[int, int]
) -> None:
    lower, upper = leases
    with called(master, client, lower, 2) as below:
        below.write(*(activation(2, batch) for batch in range(100)))
        until(lambda: master.master.relay.dropped == 100)
        with called(master, client, upper, 1) as above:
            assert below.read().kind == above.read().kind == pb.PAIR
            below.write(activation(2, 100))
            assert above.read() == activation(2, 100)
    assert [master.master.relay.depth(k, 0) for k in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT"),
        (activation(2).SerializeToString()[:-3], "INVALID_ARGUMENT"),
        (activation(1), "INVALID_ARGUMENT"),
        (activation(3), "INVALID_ARGUMENT"),
        (activation(2, incarnation=99), "INVALID_ARGUMENT"),
        (pb.BoundaryMessage(kind=pb.GRADIENT, layer=2), "INVALID_ARGUMENT"),
        (pb.BoundaryMessage(kind=pb.PEER, layer=2), "INVALID_ARGUMENT"),
        (pb.BoundaryMessage(kind=99, layer=2), "INVALID_ARGUMENT"),  # type: ignore[arg-type]
        (pb.BoundaryMessage(kind=pb.ACTIVATION, layer=2, data=b"abcd"), "INVALID_ARGUMENT"),
        (pb.BoundaryMessage(kind=pb.ACTIVATION, layer=2, table=table(9), data=bytes(8)), "INVALID_ARGUMENT"),
    ],
    ids=["garbage", "truncated", "to oneself", "past the neighbour", "another's", "on the wrong way",
         "a slave's own", "unknown kind", "no table", "a table that lies"],
)  # fmt: skip
def test_a_wrong_message_ends_its_senders_stream_and_reaches_nobody(
    master: Served, client: Client, leases: tuple[int, int], message: Any, code: str
) -> None:
    with paired(master, client, *leases) as (below, above):
        below.write(message)
        assert code_of(below) == code
        # The neighbour is not to blame: it is to call again.
        with pytest.raises(grpc.RpcError) as ended:
            above.read()
        assert ended.value.code().name == "UNAVAILABLE"
    with paired(master, client, *leases) as (below, above):
        below.write(activation(2, 7))
        assert above.read() == activation(2, 7)
    assert status(master).counters.malformed == 1


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"", "INVALID_ARGUMENT"),
        (b"\xff", "INVALID_ARGUMENT"),
        (activation(2), "INVALID_ARGUMENT"),
        ({"incarnation": 0}, "UNAUTHENTICATED"),
        ({"incarnation": 99}, "ABORTED"),
        ({"run": "another"}, "FAILED_PRECONDITION"),
        ({"layer": 3}, "INVALID_ARGUMENT"),
        ({"replica": 1}, "INVALID_ARGUMENT"),
        ({"sender": 1}, "INVALID_ARGUMENT"),
    ],
    ids=["nothing", "garbage", "no introduction", "no incarnation", "unknown incarnation", "another run",
         "no neighbour", "no such replica", "another's name"],
)  # fmt: skip
def test_a_stream_that_does_not_introduce_itself_is_refused(
    master: Served, client: Client, first: Any, code: str
) -> None:
    incarnation = master.join("a").incarnation
    if isinstance(first, dict):
        changes, first = first, hello(master, incarnation, 2)
        for name, value in changes.items():
            setattr(first, name, value)
    with client.exchange() as stream:
        stream.write(first)
        assert code_of(stream) == code


def test_a_stream_that_ends_before_its_introduction_is_refused(master: Served, client: Client) -> None:
    master.join("a")
    with client.exchange() as stream:
        stream.end()
        assert code_of(stream) == "INVALID_ARGUMENT"


def test_a_slave_that_does_not_keep_up_loses_its_stream_and_its_neighbour_calls_again(
    master: Served, client: Client, leases: tuple[int, int]
) -> None:
    """The neighbour's reader stands still: gRPC's own buffers are full, and then the outbox."""
    big = activation(2)
    big.table.tensors[0].shape[:] = [1 << 18]
    big.table.nbytes = 1 << 20
    big.data = bytes(1 << 20)
    with paired(master, client, *leases) as (below, above):
        below.write(*[big] * 64)
        assert code_of(below) == "UNAVAILABLE"
        assert code_of(above) == "UNAVAILABLE"
    with paired(master, client, *leases):
        pass


def test_a_slow_reader_fills_its_own_outbox_and_holds_up_no_other_pair(
    master: Served, client: Client, leases: tuple[int, int]
) -> None:
    lower, middle = leases
    upper = master.join("c").incarnation
    big = activation(2)
    big.table.tensors[0].shape[:] = [1 << 18]
    big.table.nbytes = 1 << 20
    big.data = bytes(1 << 20)
    with (
        paired(master, client, lower, middle) as (below, _),
        called(master, client, middle, 3) as one,
        called(master, client, upper, 2) as other,
    ):
        assert one.read().kind == other.read().kind == pb.PAIR
        # Nobody reads the calls for layer 2 meanwhile.
        below.write(*[big] * 8)
        for batch in range(20):
            one.write(activation(3, batch, middle))
            assert other.read() == activation(3, batch, middle)


def test_streams_of_a_slave_that_left_are_closed_and_an_heir_takes_its_place(
    master: Served, client: Client, leases: tuple[int, int]
) -> None:
    lower, upper = leases
    with paired(master, client, lower, upper) as (below, above):
        first = hello(master, lower, 2)
        master.leave(lower)
        below.write(activation(2, 1))
        assert code_of(below) == "OK"
        assert code_of(above) == "UNAVAILABLE"
        with client.exchange() as again:
            again.write(first)
            assert code_of(again) == "ABORTED"
    heir = master.join("d").incarnation
    with paired(master, client, heir, upper) as (below, above):
        below.write(activation(2, 2, heir))
        assert above.read() == activation(2, 2, heir)


def test_a_slaves_newer_stream_closes_its_older_one(
    master: Served, client: Client, leases: tuple[int, int]
) -> None:
    lower, upper = leases
    # Each call has a connection of its own, so only an answer says which hello came first.
    with (
        paired(master, client, lower, upper) as (older, above),
        called(master, client, lower, 2) as newer,
    ):
        assert code_of(older) == code_of(above) == "UNAVAILABLE"
        with called(master, client, upper, 1):
            assert newer.read().kind == pb.PAIR
