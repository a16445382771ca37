"""Flight server of `benchmarks.flight`: `python -m benchmarks.flight_server [SETTING]...`.

The server stands on a real `Master`: leases, admission of headers, NaN check, commit records, mapped files,
and control at a gRPC port. DoPut carries pushes in order in an open call, DoGet a pull, DoExchange the
boundary messages of a slave in both directions.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import flight

from benchmarks.flight_batches import PIECE_BYTES, SCHEMA, batch_of, boundary_of, frame_of, metadata_of
from benchmarks.flight_threads import IncomingPush, Sender
from common.config.files import load
from common.errors import LayerwiseError, UnreachableError
from common.lifecycle import end_with_parent, give_way, keep_freed_memory
from common.models.resolution import resolve
from common.net.control import ControlServer
from common.net.data.pairs import Seat, check_message, decode_hello
from common.shards.pushes import Frame
from common.wire.methods import PULL, PUSH
from common.wire.payloads import encode_frame
from master.disk.state import StateDirectory
from master.semaphore import FairSemaphore
from master.service import Master
from master.servicers.large_pushes import LARGE_PUSHES
from master.servicers.roster import RosterServicer
from master.store.shard import Reading


class FlightMaster(flight.FlightServerBase):  # type: ignore[misc]
    """Pushes, pulls and boundary streams of a master, served by Flight."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._applier = ThreadPoolExecutor(8, "applier")
        self._permits = FairSemaphore(LARGE_PUSHES)
        self._senders: dict[Seat, Sender] = {}
        super().__init__("grpc://127.0.0.1:0")

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except LayerwiseError as error:
            self._master.run.tally.count_error(error)
            raise flight.FlightServerError(f"{error.status}: {error}") from None

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:  # noqa: ARG002 - Flight's
        """Apply and answer pushes in order."""
        with self._translated_errors(), suppress(StopIteration):
            while True:
                push = IncomingPush(self._master.parameters, reader, frame_of(reader.read_chunk()))
                writer.write(pa.py_buffer(PUSH.reply.encode(push.apply(self._applier, self._permits))))

    def do_get(self, context: Any, ticket: Any) -> Any:  # noqa: ARG002 - Flight's
        """Send a consistent version."""
        with self._translated_errors():
            reading = self._master.parameters.read(PULL.request.decode(ticket.ticket))
        return flight.GeneratorStream(SCHEMA, self._pieces(reading))

    def _pieces(self, reading: Reading) -> Iterator[Any]:
        buffer, first = reading.buffer, pa.py_buffer(encode_frame(Frame(reading.header)))
        try:
            if buffer.nbytes <= PIECE_BYTES:
                copy = bytes(buffer)
                reading.release()
                yield batch_of(copy), first
                return
            # gRPC sends a batch from its memory some time after the batch was yielded. The check waits until
            # gRPC has freed every batch; otherwise a push could change bytes that are still to be sent.
            freed = threading.Semaphore(0)
            offsets = range(0, buffer.nbytes, PIECE_BYTES)
            for offset in offsets:
                piece = np.frombuffer(buffer[offset : offset + PIECE_BYTES], np.uint8)
                weakref.finalize(piece, freed.release)
                batch = batch_of(piece.data)
                del piece
                yield batch, first if not offset else pa.py_buffer(encode_frame(Frame(None, offset)))
                del batch
                _check(reading)
            for _ in offsets:
                freed.acquire(timeout=5.0)
            _check(reading)
        finally:
            reading.release()

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:  # noqa: ARG002
        """Relay a slave's boundary messages, or answer pulls of small shards."""
        answer = self._answer_pulls if descriptor.command == b"pull" else self._relay
        with self._translated_errors(), suppress(StopIteration):
            writer.begin(SCHEMA)
            answer(reader, writer)

    def _answer_pulls(self, reader: Any, writer: Any) -> None:
        while True:
            request = PULL.request.decode(bytes(metadata_of(reader.read_chunk())))
            reading = self._master.parameters.read(request)
            frame = encode_frame(Frame(reading.header, 0, reading.buffer))
            reading.release()
            writer.write_metadata(pa.py_buffer(frame))

    def _relay(self, reader: Any, writer: Any) -> None:
        first = reader.read_chunk()
        hello = decode_hello(metadata_of(first))
        holder = self._master.run.roster.seat(hello.incarnation)
        seat, neighbour = (holder.layer, holder.replica), (hello.layer, hello.replica)
        sender = self._senders[seat] = Sender(writer)
        sender.put(first)
        try:
            while True:
                chunk = reader.read_chunk()
                check_message(boundary_of(chunk), seat, hello.incarnation, neighbour)
                if (other := self._senders.get(neighbour)) is not None:
                    other.put(chunk)
        finally:
            if self._senders.get(seat) is sender:
                del self._senders[seat]
            sender.close()


def _check(reading: Reading) -> None:
    if reading.revoked:
        error = UnreachableError(f"{reading.header.shard}: pushes could not wait for this reader")
        raise flight.FlightUnavailableError(str(error))


@contextmanager
def serve_master(folder: Path, settings: Sequence[str] = ()) -> Iterator[tuple[FlightMaster, Master]]:
    """Serve a master by Flight in the current process.

    Args:
        folder: for configuration and state.
        settings: section.key=value.
    """
    (folder / "run.toml").touch()
    state = StateDirectory(folder / "state")
    master = Master(resolve(load(folder / "run.toml", settings)), state)
    try:
        yield FlightMaster(master), master
    finally:
        state.close()


async def _serve(settings: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, serve_master(Path(folder), settings) as (server, master):
        control = ControlServer(master.run.tally.count_error)
        RosterServicer(master.run, master.ledger, master.status).register(control)
        address = await control.start("127.0.0.1:0")
        print(f"{address},127.0.0.1:{server.port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await control.stop(0.1)
        await asyncio.to_thread(server.shutdown)


if __name__ == "__main__":
    end_with_parent()
    keep_freed_memory()
    give_way()
    asyncio.run(_serve(sys.argv[1:]))
