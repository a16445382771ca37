"""Slow readers at the data port neither slow pushes down nor lose their version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.credentials import Credentials
from common.net.data.client import Call, DataClient
from common.net.data.server import DataServer
from common.net.http2.pace import Pace
from common.shards.assembly import Assembly
from common.shards.pushes import Header, Operation, PullRequest
from common.shards.table import lay_out
from common.wire.methods import PULL, PUSH
from common.wire.payloads import decode_frame, frame_parts, frames
from tests.common.net.certificates import Contexts, contexts
from tests.master.served import DEADLINE, Served, served

# More than the kernel holds back for a reader.
COUNT = 8 << 20
TABLE = lay_out([("weight", "float32", (COUNT,), "parameter")])


@pytest.fixture
def master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    # A push that waits for a reader comes too late.
    monkeypatch.setattr("master.store.shard.READER_SECONDS", 10 * DEADLINE)
    with served(tmp_path) as running:
        yield running


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> Contexts:
    return contexts() if request.param == "tls" else Contexts()


def begun(call: Call) -> Assembly:
    """Ask for the shard, and take the first frame alone."""
    call.send(PULL.request.encode(PullRequest("1/weights")), last=True)
    first = call.read(DEADLINE)
    assert first is not None
    return Assembly(decode_frame(first), None)


def rest(call: Call, assembly: Assembly) -> np.ndarray:
    buffer = np.empty(TABLE.nbytes, np.uint8)
    for offset, piece in assembly.pieces:
        buffer[offset : offset + piece.nbytes] = np.frombuffer(piece, np.uint8)
    pace = Pace(DEADLINE)
    while not assembly.complete:
        call.land(assembly, buffer.data, pace)
    assert call.read(DEADLINE) is None
    return buffer.view(np.float32)


def test_readers_that_pause_get_their_version_whole_while_pushes_go_on(master: Served, tls: Contexts) -> None:
    server = DataServer(master.master.run.tally.count_error, tls=tls.server)
    master.ports.parameters.register(server)
    port = server.start("127.0.0.1", 0)
    clients = [DataClient(lambda: ("127.0.0.1", port), Credentials(1), tls.client) for _ in range(4)]
    pushing, stuck, *readers = clients
    held, ones = master.join("a").incarnation, np.ones(COUNT, np.float32)
    try:
        with pushing.call(PUSH) as pushes, stuck.call(PULL) as nothing, readers[0].call(PULL) as slow:
            for sequence in range(6):
                operation = Operation.UPDATE if sequence else Operation.CREATE
                header = Header("1/weights", operation, 0, held, sequence, 10 * sequence, TABLE)
                for frame in frames(header, ones.data):
                    pushes.send(*frame_parts(frame))
                reply = PUSH.reply.decode(bytes(pushes.read(DEADLINE) or b""))
                assert reply.applied
                if sequence == 1:
                    begun(nothing)
                if sequence == 2:
                    assembly = begun(slow)
            found = rest(slow, assembly)
            assert (found.min(), found.max()) == (3.0, 3.0)
            assert assembly.header.version == 2
    finally:
        for client in clients:
            client.drop()
        server.stop()
    assert master.master.store.versions() == {"1/weights": 5}
