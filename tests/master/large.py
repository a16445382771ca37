"""Shards above a chunk, and a second data port with a patience of its own, for tests of large pushes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.net.data.server import DataServer
from common.shards.pushes import Header, Operation
from common.wire.payloads import CHUNK_BYTES, encode_frame, frames
from master.servicers.parameters import ParametersServicer
from tests.master.pushes import creation, parameters
from tests.master.served import Client, Served, served

# Three chunks each.
COUNT = 3 * CHUNK_BYTES // 4


@contextmanager
def served_large(folder: Path) -> Iterator[Served]:
    """A master with a large shard of weights for each of three leases."""
    with served(folder) as running:
        for layer in (1, 2, 3):
            held = running.join(f"slave {layer}").incarnation
            header, pieces = creation(np.zeros(COUNT), incarnation=held, shard=f"{layer}/weights")
            running.master.parameters.push(header, pieces)
        yield running


@contextmanager
def second_port(master: Served, stalled_seconds: float) -> Iterator[Client]:
    """Client of a second data port, where a push may not stand still for longer."""
    tally = master.master.run.tally
    server = DataServer(tally.count_error)
    ParametersServicer(master.master.parameters, tally, stalled_seconds).register(server)
    client = Client(f"127.0.0.1:{server.start('127.0.0.1', 0)}")
    yield client
    client.close()
    server.stop()


def chunks(layer: int) -> list[Any]:
    """Frames of a push of ones, by the slave of a layer."""
    header = Header(f"{layer}/weights", Operation.UPDATE, 0, layer, 1, 10, parameters(COUNT))
    encoded: list[Any] = [encode_frame(frame) for frame in frames(header, np.ones(COUNT, np.float32).data)]
    return encoded
