"""Create, push and pull a shard through generated classes and grpcio: python client.py STUBS HOST:PORT TOKEN.

Written from docs/protocol.md; imports nothing of layerwise. Prints the results as JSON.
"""

from __future__ import annotations

import json
import secrets
import sys
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np

STUBS, CONTROL, TOKEN = sys.argv[1:4]
sys.path.insert(0, STUBS)
import layerwise_pb2 as pb  # noqa: E402 - generated into STUBS

PIECE_BYTES = 1 << 20
PARAMETERS = 1_500_000
SECONDS = 60.0

Metadata = Sequence[tuple[str, str]]


def open_channel(address: str) -> grpc.Channel:
    """Return a channel with a connection of its own, since the data port takes a single call on each."""
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


def call_roster(channel: grpc.Channel, method: str, request: Any, reply: Any, shown: Metadata = ()) -> Any:
    """Call a method of the service Roster."""
    path = f"/layerwise.v1.Roster/{method}"
    return channel.unary_unary(path, type(request).SerializeToString, reply.FromString)(
        request, timeout=SECONDS, metadata=shown
    )


def build_table() -> Any:
    """Return the table of a layer: parameters, a float buffer and an integer buffer."""
    weight = 4 * PARAMETERS
    return pb.Table(
        tensors=[
            pb.TensorSpec(name="0.weight", dtype="float32", shape=[1000, 1500], offset=0, kind="parameter"),
            pb.TensorSpec(name="0.bias", dtype="float32", shape=[3], offset=weight, kind="parameter"),
            # 12 bytes of bias end at a multiple of 4; a buffer region starts at a multiple of 8.
            pb.TensorSpec(name="1.mean", dtype="float32", shape=[2], offset=weight + 16, kind="buffer"),
            pb.TensorSpec(name="1.count", dtype="int64", shape=[], offset=weight + 24, kind="buffer"),
        ],
        nbytes=weight + 32,
    )


def build_buffer(parameter: float, mean: float, count: int) -> bytes:
    """Return a buffer whose tensors are constant."""
    parameters = np.full(PARAMETERS + 3, parameter, "<f4").tobytes()
    return parameters + bytes(4) + np.full(2, mean, "<f4").tobytes() + np.array(count, "<i8").tobytes()


def cut(header: Any, buffer: bytes) -> Iterator[Any]:
    """Yield the frames of a push."""
    yield pb.Frame(header=header, data=buffer[:PIECE_BYTES])
    for offset in range(PIECE_BYTES, len(buffer), PIECE_BYTES):
        yield pb.Frame(offset=offset, data=buffer[offset : offset + PIECE_BYTES])


def identify(lease: Any) -> Metadata:
    """Return the metadata of a call that uses a lease."""
    return [("layerwise-incarnation", str(lease.incarnation)), ("layerwise-secret", lease.secret)]


def push(channel: grpc.Channel, header: Any, buffer: bytes, shown: Metadata) -> Any:
    """Push a buffer and return the reply."""
    call = channel.stream_stream(
        "/layerwise.v1.Parameters/Push", pb.Frame.SerializeToString, pb.PushReply.FromString
    )(cut(header, buffer), timeout=SECONDS, metadata=shown)
    (reply,) = call
    return reply


def pull(channel: grpc.Channel, shard: str, incarnation: int = 0, shown: Metadata = ()) -> tuple[Any, bytes]:
    """Pull a version of a shard: the header and the buffer."""
    call = channel.unary_stream(
        "/layerwise.v1.Parameters/Pull", pb.PullRequest.SerializeToString, pb.Frame.FromString
    )(pb.PullRequest(shard=shard, incarnation=incarnation), timeout=SECONDS, metadata=shown)
    # An unfinished call raises here, so mixed bytes are never returned.
    frames = list(call)
    header = frames[0].header
    buffer = b""
    for frame in frames:
        assert frame.offset == len(buffer)
        buffer += frame.data
    assert len(buffer) == header.table.nbytes
    return header, buffer


def get_status(channel: grpc.Channel, shard: str, incarnation: int = 0, shown: Metadata = ()) -> str:
    """Return the name of the status with which a pull fails."""
    try:
        pull(channel, shard, incarnation, shown)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def main() -> dict[str, Any]:
    """Take a lease and use the shard of its layer; return the observations."""
    control = open_channel(CONTROL)
    described = call_roster(control, "Describe", pb.DescribeRequest(), pb.DescribeReply)
    assert tomllib.loads(described.config)["cluster"]["heartbeat_seconds"] >= 10, (
        "the lease needs no heartbeat"
    )
    data = f"{CONTROL.rpartition(':')[0]}:{described.bulk_port}"
    pushes, pulls = open_channel(data), open_channel(data)

    request = pb.JoinRequest(slave="foreign", key=secrets.token_hex(16))
    joiner = [("layerwise-token", TOKEN)]
    lease = call_roster(control, "Join", request, pb.JoinReply, joiner)
    assert lease.granted
    shard, own, shown = f"{lease.layer}/weights", lease.incarnation, identify(lease)
    before = get_status(pulls, shard)
    common = {"shard": shard, "table": build_table(), "replica": lease.replica, "incarnation": own}

    created = push(pushes, pb.Header(operation=pb.CREATE, **common), build_buffer(1.0, 0.0, 0), shown)
    changed = pb.Header(operation=pb.UPDATE, sequence=1, next_batch=8, **common)
    change = build_buffer(0.5, 4.0, 8)
    first = push(pushes, changed, change, shown)
    again = push(pushes, changed, change, shown)
    header, buffer = pull(pulls, shard, own, shown)
    second = push(
        pushes,
        pb.Header(
            operation=pb.UPDATE,
            version=header.version,
            sequence=2,
            fetched_sequence=header.sequence,
            next_batch=16,
            **common,
        ),
        build_buffer(-0.25, 5.0, 8),
        shown,
    )
    final, last = pull(pulls, shard)

    beat = pb.HeartbeatRequest(incarnation=own, beat=1)
    alive = call_roster(control, "Heartbeat", beat, pb.HeartbeatReply, shown)
    call_roster(control, "Leave", pb.LeaveRequest(incarnation=own, reason="finished"), pb.LeaveReply, shown)
    ours = {"common", "master", "slave", "deploy", "protos"}
    return {
        "before": before,
        "created": created.applied,
        "first": [first.applied, first.version],
        "again": [again.applied, again.refused, again.version],
        "pulled": [header.version, header.sequence, buffer == build_buffer(1.5, 4.0, 8)],
        "second": [second.applied, second.version, second.staleness],
        "final": [final.version, final.next_batch, last == build_buffer(1.25, 5.0, 16)],
        "same table": final.table == build_table(),
        "over": alive.over,
        "after leaving": get_status(pulls, shard, own, shown),
        "imported": sorted(ours & {name.partition(".")[0] for name in sys.modules}),
    }


if __name__ == "__main__":
    print(json.dumps(main()))
