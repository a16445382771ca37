"""The master's memory while a large shard is created, pushed to and pulled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from common.credentials import Credentials
from common.net import control
from common.net.data.client import locate
from common.net.tokens import find_joiner
from common.shards.assembly import Assembly
from common.shards.pushes import Header, Operation, PullRequest
from common.shards.table import lay_out
from common.wire.messages import JoinReply, JoinRequest
from common.wire.methods import JOIN, PULL, PUSH
from common.wire.payloads import frames
from tests.integration.processes import HandMade
from tests.master.served import key_of

MIB = 1 << 20
SHARD_BYTES = 256 * MIB
TABLE = lay_out([("weight", "float32", (SHARD_BYTES // 4,), "parameter")])
# Torch and the interpreter, and whatever else is there whatever the shard's size.
BASE_BYTES = 400 * MIB
PUSHES = 3

Numbers = npt.NDArray[np.float32]


def peak(pid: int) -> int:
    """The most memory that a process has held, in bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10


def pushed(channel: Any, lease: JoinReply, operation: Operation, count: int = 1) -> None:
    """Push as often as that over one stream."""
    halves: Numbers = np.full(SHARD_BYTES // 4, 0.5, np.float32)

    def sent() -> Iterator[Any]:
        for sequence in range(1, count + 1):
            header = Header("1/weights", operation, 0, lease.incarnation, sequence, table=TABLE)
            yield from frames(header, halves.view(np.uint8).data)

    metadata = Credentials(lease.incarnation, lease.secret).metadata()
    bound = channel.stream_stream(PUSH.path, PUSH.request.encode, PUSH.reply.decode)
    call = bound(sent(), timeout=120, metadata=metadata)
    assert [reply.applied for reply in call] == [True] * count


def pulled(channel: Any) -> None:
    """Pull, keeping nothing."""
    assembly: Assembly | None = None
    call = channel.unary_stream(PULL.path, PULL.request.encode, PULL.reply.decode)
    for frame in call(PullRequest("1/weights"), timeout=120):
        if assembly is None:
            assembly = Assembly(frame, None)
        else:
            assembly.add(frame)
        assembly.pieces.clear()
    assert assembly is not None
    assert assembly.complete


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the system does not tell a peak by process"
)
@pytest.mark.parametrize(
    ("push", "operation", "optimizer_bytes"),
    [("update", Operation.UPDATE, 0), ("gradient", Operation.ACCRUED_GRADIENT, SHARD_BYTES)],
)
def test_the_masters_memory_is_bounded_with_one_push_under_way(
    by_hand: HandMade, push: str, operation: Operation, optimizer_bytes: int
) -> None:
    # Nothing beats here: the lease has to last.
    settings = ("network.cuts=[1]", f'downpour.push="{push}"', "cluster.heartbeat_seconds=60")
    process = by_hand.master(*(word for each in settings for word in ("--set", each)))
    roster = control.channel(by_hand.address)
    lease = control.call(
        roster,
        JOIN,
        JoinRequest("memory", key=key_of("memory")),
        shown=find_joiner(by_hand.address),
    )
    roster.close()
    host, port = locate(by_hand.address)
    channel = control.channel(f"{host}:{port}")
    pushed(channel, lease, Operation.CREATE)
    pushed(channel, lease, operation, PUSHES)
    pulled(channel)
    channel.close()
    assert peak(process.pid) <= 2 * (SHARD_BYTES + optimizer_bytes) + SHARD_BYTES + BASE_BYTES
