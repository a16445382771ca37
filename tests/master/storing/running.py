"""Stores on the event loop of a served master, and pushes to them as slaves make them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.credentials import Credentials
from common.errors import UnreachableError
from common.net import control
from common.net.addresses import split_address
from common.net.data.client import DataClient, pull
from common.net.tokens import JOIN_TOKEN
from common.shards.pushes import Header, PullRequest, PushReply
from common.wire.messages import JoinReply, StatusReply, StatusRequest
from common.wire.methods import LOCATE, PLACE, PUSH, STATUS
from common.wire.payloads import frame_parts, frames
from common.wire.stores import LocateReply, LocateRequest, PlaceRequest
from master.disk.state import StateDirectory
from master.storing.options import Options
from master.storing.service import StoreProcess
from tests.master.pushes import creation, update
from tests.master.served import DEADLINE, Served

BEAT = 0.2


class RunningStore:
    """A store of a served master, in a thread of which nothing outlives `kill` but the files."""

    def __init__(self, master: Served, folder: Path, tls: Path | None = None) -> None:
        self._master = master
        self.state = StateDirectory(folder)
        token = None if tls else master.master.state.path / JOIN_TOKEN
        options = Options(master.address, folder, wait=DEADLINE, join_token=token, tls=tls)
        self.process = master.do(self._make(options))
        self.running = asyncio.run_coroutine_threadsafe(self.process.run(), master._loop)

    async def _make(self, options: Options) -> StoreProcess:
        return StoreProcess(options, self.state)

    def kill(self) -> None:
        """End without a farewell: the process saves nothing and calls nobody."""
        self.running.cancel()
        with contextlib.suppress(BaseException):
            self.running.result(DEADLINE)
        if self.process._data is not None:
            self.process._data.stop()
        self._master.do(self.process._channel.close())
        self.state.close()


def send(client: DataClient, header: Header, pieces: list[tuple[int, memoryview]]) -> PushReply:
    """Send a push of one piece, once."""
    with client.call(PUSH) as call:
        for frame in frames(header, pieces[0][1]):
            call.send(*frame_parts(frame))
        encoded = call.read(DEADLINE)
        assert encoded is not None
        return PUSH.reply.decode(bytes(encoded))


class Cluster:
    """A master and stores, in one process.

    Args:
        folder: for the state directories.
        count: of stores.
        settings: of the configuration.
    """

    def __init__(self, folder: Path, count: int, *settings: str) -> None:
        self._folder = folder
        self.master = Served(
            folder / "state", f"cluster.stores={count}", f"cluster.heartbeat_seconds={BEAT}", *settings
        )
        self.stores: dict[int, RunningStore] = {}
        for number in range(1, count + 1):
            self.start(number)
            # One after the other: the numbers are given in the order of joining.
            self.until(partial(self._serves, number))

    def _serves(self, number: int) -> bool:
        return self.status().stores[number - 1].state == "serving"

    def start(self, number: int) -> RunningStore:
        """Start a store on its directory."""
        self.stores[number] = RunningStore(self.master, self._folder / f"store-{number}")
        return self.stores[number]

    def status(self) -> StatusReply:
        """State of the run."""
        return control.call(self.master.channel, STATUS, StatusRequest())

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for a condition, and return its value."""
        deadline = time.monotonic() + DEADLINE
        while not (found := condition()):
            assert time.monotonic() < deadline, condition
            time.sleep(0.01)
        return found

    def join(self, slave: str) -> JoinReply:
        """Take a lease; ask again while a store does not know it yet, as slaves do."""
        return self.until(partial(self._try_to_join, slave))  # type: ignore[no-any-return]

    def _try_to_join(self, slave: str) -> JoinReply | None:
        try:
            return self.master.join(slave)
        except UnreachableError:
            return None

    def place(self, lease: JoinReply, shard: str, nbytes: int) -> LocateReply:
        """Have a shard dealt out."""
        return self.master.call(PLACE, PlaceRequest(lease.incarnation, shard, nbytes))

    def locate(self, shard: str) -> LocateReply:
        """Find a shard."""
        return control.call(self.master.channel, LOCATE, LocateRequest(shard))

    def client(self, shard: str, lease: JoinReply | None = None) -> DataClient:
        """A client of the store that keeps a shard."""
        shown = Credentials(lease.incarnation, lease.secret) if lease else Credentials()
        return DataClient(lambda: split_address(self.locate(shard).address), shown)

    def create(self, lease: JoinReply, shard: str, count: int = 1) -> LocateReply:
        """Have a shard of zeros dealt out and created."""
        found = self.place(lease, shard, 4 * count)
        self.send(lease, *creation(np.zeros(count), incarnation=lease.incarnation, shard=shard))
        return found

    def push(self, lease: JoinReply, shard: str, sequence: int, number: float = 1.0) -> PushReply:
        """Push an update of one number, of as many batches as the sequence."""
        header, pieces = update(
            [number], sequence, incarnation=lease.incarnation, shard=shard, next_batch=sequence
        )
        return self.send(lease, header, pieces)

    def send(self, lease: JoinReply, header: Header, pieces: list[tuple[int, memoryview]]) -> PushReply:
        """Send a push to the store of its shard, once."""
        client = self.client(header.shard, lease)
        try:
            return send(client, header, pieces)
        finally:
            client.drop()

    def value(self, shard: str) -> tuple[int, float]:
        """Version and first number of a shard."""
        client = self.client(shard)
        try:
            header, buffer = pull(client, PullRequest(shard), DEADLINE)
            return header.version, float(np.frombuffer(buffer, np.float32)[0])
        finally:
            client.drop()

    def close(self) -> None:
        """End everything."""
        for store in self.stores.values():
            store.kill()
        self.master.close()


@contextlib.contextmanager
def clustered(folder: Path, count: int, *settings: str) -> Iterator[Cluster]:
    """A master and stores for a test."""
    made = Cluster(folder, count, *settings)
    try:
        yield made
    finally:
        made.close()
