"""Arbitrary bytes as pushes have the documented refusal or the documented effect, and no further effect.

Real frames are mutated: bytes, fields, order. `layerwise.v1.Parameters/Push` runs as the data port runs it,
without a socket, for speed; a part also goes through a real server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.config.files import load
from common.credentials import Credentials
from common.errors import (
    FencedError,
    MalformedError,
    NotFoundError,
    TooLargeError,
    UnprovenError,
)
from common.net.data.callers import Caller, Requests
from common.net.data.messages import prefix
from common.net.http2.connection import Connection
from common.net.http2.pipe import Limit
from common.shards.pushes import Header, Operation, PushReply
from common.shards.table import lay_out
from common.wire.messages import JoinRequest, LeaveRequest
from common.wire.methods import PUSH
from master.disk.state import StateDirectory
from master.service import Master
from master.servicers import parameters
from master.servicers.parameters import ParametersServicer
from tests.faults.fuzz.mutation import PushFuzzer, contents, pushed
from tests.master.pushes import MIXED
from tests.master.served import Stream, served

DOCUMENTED = (MalformedError, TooLargeError, FencedError, NotFoundError, UnprovenError)
STATUSES = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "ABORTED", "NOT_FOUND", "UNAUTHENTICATED"}
PLAIN = lay_out([("weight", "float32", (24,), "parameter")])
TABLES = {"1/weights": MIXED, "1/gradient": PLAIN}
# Caches fill up and the allocator settles; what grows with every frame grows far beyond this.
GROWTH_BYTES = 48 << 20


class Target:
    """Master without a server, with two shards of layer 1."""

    def __init__(self, folder: Path) -> None:
        self.directory = StateDirectory(folder)
        self.master = Master(load(None, ["network.cuts=[1, 2]"]), self.directory)
        self.parameters = ParametersServicer(self.master.parameters, self.master.run.tally)
        self.join()
        rng = random.Random(0)
        for shard, table in TABLES.items():
            header = Header(shard, Operation.CREATE, incarnation=self.incarnation, table=table)
            self.master.parameters.push(header, [(0, memoryview(contents(table, rng)))])

    def join(self) -> int:
        """Take the lease on layer 1."""
        self.incarnation = asyncio.run(
            self.master.ledger.apply(self.master.run.join, JoinRequest("fuzzer"))
        ).incarnation
        return self.incarnation

    def sequences(self) -> dict[str, int]:
        """Sequence of the slave's last push, by shard."""
        readings = {name: self.master.store.read(name, self.incarnation) for name in TABLES}
        for reading in readings.values():
            reading.release()
        return {name: reading.header.sequence for name, reading in readings.items()}

    def state(self) -> dict[str, tuple[int, bytes]]:
        """Version and contents of every shard."""
        found = {}
        for name in self.master.store.versions():
            reading = self.master.store.read(name)
            found[name] = (reading.header.version, bytes(reading.buffer))
            reading.release()
        return found

    def offer(self, stream: list[bytes]) -> list[PushReply]:
        """Push a stream of frames; returns the replies, and raises undocumented errors."""
        calls = Recorded(stream)
        connection = cast(Connection, calls)
        caller = Caller(connection, lambda *_: None, lambda *_: None)
        caller.identify(PUSH.path, Credentials(self.incarnation))
        with contextlib.suppress(*DOCUMENTED):
            self.parameters.push(Requests(connection, PUSH.request_bytes, caller))
        return calls.replies


class Recorded:
    """Connection that holds a call's frames in memory and keeps the replies."""

    def __init__(self, stream: list[bytes]) -> None:
        self._data = memoryview(b"".join(prefix([each]) + each for each in stream))
        self.pipe = self
        self.replies: list[PushReply] = []

    def set_deadline(self, deadline: float | None) -> None:
        """Ignore: memory never stalls."""

    def set_pace(self, pace: Limit) -> None:
        """Ignore: memory is fast."""

    def more(self) -> bool:
        """Whether bytes are left."""
        return self._data.nbytes > 0

    def into(self, target: memoryview) -> bool:
        """Fill the target; False at the end."""
        enough = target.nbytes <= self._data.nbytes
        if enough:
            target[:] = self._data[: target.nbytes]
            self._data = self._data[target.nbytes :]
        return enough

    def send(self, head: bytes, reply: bytes, last: bool = False, let_go: object = None) -> None:
        """Keep a reply."""
        self.replies.append(PUSH.reply.decode(reply))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path)
    yield made
    made.directory.close()


def changes(before: dict[str, tuple[int, bytes]], after: dict[str, tuple[int, bytes]]) -> int:
    """Count the pushes that took effect, and check that all else is unchanged."""
    assert set(before) <= set(after)
    for name, (version, data) in before.items():
        assert after[name][0] > version or after[name] == (version, data), name
    created = len(after) - len(before)
    return created + sum(after[name][0] - version for name, (version, _) in before.items())


def fuzz(target: Target, fuzzer: PushFuzzer, count: int) -> tuple[int, int]:
    """Offer streams with a total of `count` frames; returns the numbers of applied and refused streams."""
    frames = taken = refused = 0
    before = target.state()
    while frames < count:
        sequences = target.sequences()
        if max(sequences.values()) > 1 << 60:  # A mutation has used them up.
            asyncio.run(target.master.ledger.apply(target.master.run.leave, LeaveRequest(target.incarnation)))
            fuzzer.incarnation = target.join()
        stream = fuzzer.stream(target.sequences())
        frames += len(stream)
        replies = target.offer(stream)
        after = target.state()
        assert changes(before, after) == sum(reply.applied for reply in replies)
        before = after
        taken, refused = taken + bool(replies), refused + (not replies)
    return taken, refused


def assert_frames_do_no_harm(target: Target, count: int, seed: int) -> None:
    process = psutil.Process()
    fuzzer = PushFuzzer(seed, target.incarnation, TABLES)
    fuzz(target, fuzzer, count // 10)
    settled = process.memory_info().rss
    taken, refused = fuzz(target, fuzzer, count)
    assert min(taken, refused) > count / 100
    assert process.memory_info().rss - settled < GROWTH_BYTES


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "in a thread"])
def test_thousands_of_frames_do_no_harm(
    target: Target, inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not inline:
        monkeypatch.setattr(parameters, "CHUNK_BYTES", 0)
    assert_frames_do_no_harm(target, 2_000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("inline", "count"), [(True, 50_000), (False, 16_000)], ids=["inline", "in a thread"]
)
def test_tens_of_thousands_of_frames_do_no_harm(
    target: Target, inline: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not inline:
        monkeypatch.setattr(parameters, "CHUNK_BYTES", 0)
    assert_frames_do_no_harm(target, count, seed=2)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=3))
def test_arbitrary_frames_change_nothing(target: Target, stream: list[bytes]) -> None:
    before = target.state()
    assert not target.offer(stream)
    assert target.state() == before


def outcome(stream: Stream, frames: list[bytes]) -> tuple[int, str]:
    """Number of applied pushes, and status of the stream."""
    applied = 0
    stream.write(*frames)
    stream.end()
    try:
        while (reply := stream.read()) is not None:
            applied += reply.applied
    except grpc.RpcError as error:
        return applied, str(error.code().name)
    return applied, "OK"


@pytest.mark.parametrize("count", [300, pytest.param(2_000, marks=pytest.mark.slow)])
def test_frames_through_a_server_get_a_documented_status(tmp_path: Path, count: int) -> None:
    target = Target(tmp_path / "twin")  # Whose shards and lease are those of the server's.
    with served(tmp_path / "served") as master:
        assert master.join("fuzzer").incarnation == target.incarnation
        rng = random.Random(0)
        for shard, table in TABLES.items():
            header = Header(shard, Operation.CREATE, incarnation=target.incarnation, table=table)
            master.client.push(pushed(header, contents(table, rng), []))
        fuzzer, frames = PushFuzzer(3, target.incarnation, TABLES), 0
        while frames < count:
            sent = fuzzer.stream(target.sequences())
            frames += len(sent)
            with master.client.pushing() as stream:
                applied, status = outcome(stream, sent)
            assert status in STATUSES | {"OK"}
            assert applied == sum(reply.applied for reply in target.offer(sent))
        assert master.master.store.versions() == target.master.store.versions()
    target.directory.close()
