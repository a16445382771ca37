"""Experiments on promises of the data plane, by Flight: `python -m benchmarks.flight_promises` prints JSON.

The experiments are small and on loopback, each with a new server; `benchmarks.flight` keeps the results.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from pyarrow import flight

from benchmarks.flight import MIB
from benchmarks.flight_arrow import connect
from benchmarks.flight_batches import PIECE_BYTES, SCHEMA, batch_of
from benchmarks.flight_server import serve_master
from benchmarks.transfer import CommandProcess
from common import strict_json
from common.lifecycle import end_with_parent
from common.shards.pushes import Frame, Header, Operation, PullRequest
from common.shards.table import lay_out
from common.wire.messages import JoinRequest
from common.wire.payloads import encode_frame

WAIT_SECONDS = 5.0
NBYTES = 8 * MIB
DESCRIPTOR = flight.FlightDescriptor.for_command(b"")
Findings = dict[str, Any]
# Streams that stay open to the end: the destructor of a blocked stream waits.
KEPT: list[Any] = []


class Talker(flight.FlightServerBase):  # type: ignore[misc]
    """Server that writes to a caller without end and serves a buffer without a copy."""

    def __init__(self, nbytes: int = 0, **options: Any) -> None:
        self.written = self.entered = 0
        self.buffer = np.zeros(nbytes, np.uint8)
        super().__init__("grpc://127.0.0.1:0", **options)
        KEPT.append(self)

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:  # noqa: ARG002
        """Write until the stream breaks."""
        writer.begin(SCHEMA)
        with suppress(pa.ArrowException, OSError):
            while True:
                writer.write_with_metadata(batch_of(bytes(MIB)), b"")
                self.written += MIB

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:  # noqa: ARG002
        """Read to the end."""
        self.entered += 1
        with suppress(StopIteration):
            while True:
                reader.read_chunk()

    def do_get(self, context: Any, ticket: Any) -> Any:  # noqa: ARG002
        """Serve the buffer without a copy; change the bytes after the last piece."""
        return flight.GeneratorStream(SCHEMA, self._pieces())

    def _pieces(self) -> Any:
        for offset in range(0, self.buffer.size, MIB):
            yield batch_of(self.buffer[offset : offset + MIB].data)
        self.buffer[:] = 1

    def connect(self) -> Any:
        """Connect a client."""
        return connect(f"127.0.0.1:{self.port}")


def _wait_for_connection(client: Any) -> Any:
    client.wait_for_available()
    return client


def _open_push(client: Any) -> Any:
    return client.do_put(DESCRIPTOR, SCHEMA)


def _open_unread(client: Any) -> Any:
    """Open an exchange, and read nothing."""
    writer, reader = client.do_exchange(DESCRIPTOR)
    writer.begin(SCHEMA)
    return writer, reader


def _shutdown_seconds(open_call: Callable[[Any], Any]) -> float | str:
    """Time a shutdown while a client does something and stays."""
    server = Talker()
    client = server.connect()
    KEPT.append((client, open_call(client)))
    time.sleep(0.5)
    thread = threading.Thread(target=server.shutdown, daemon=True)
    start = time.monotonic()
    thread.start()
    thread.join(WAIT_SECONDS)
    return "more than 5" if thread.is_alive() else round(time.monotonic() - start, 3)


def shutdowns() -> Findings:
    """Shut down with idle, open and blocked streams."""
    return {
        "connected, no call": _shutdown_seconds(_wait_for_connection),
        "open push, idle": _shutdown_seconds(_open_push),
        "open exchange, its writer blocked": _shutdown_seconds(_open_unread),
    }


def blocked_write() -> Findings:
    """Write to a peer that does not read."""
    server = Talker()
    client = server.connect()
    KEPT.append((client, _open_unread(client)))
    time.sleep(2.0)
    before = server.written
    time.sleep(WAIT_SECONDS)
    return {"mib_taken": server.written / MIB, "mib_in_5_more_seconds": (server.written - before) / MIB}


def slow_reader() -> Findings:
    """Change a buffer served without a copy, after gRPC took the last piece."""
    findings: Findings = {}
    for mib in (1, 2, 3, 4, 6, 8):
        reader = Talker(mib * MIB).connect().do_get(flight.Ticket(b""))
        time.sleep(0.5)
        changed = sum(int(np.sum(np.asarray(chunk.data.column(0)))) for chunk in reader)
        findings[f"mib_changed_of_{mib}_that_ended_with_OK"] = round(changed / MIB, 3)
    return findings


class Gate(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses a call without an identity."""

    def start_call(self, info: Any, headers: Any) -> None:  # noqa: ARG002 - Flight's
        """Read the call's headers."""
        if "identity" not in headers:
            raise flight.FlightUnauthenticatedError("no identity")


def refused() -> Findings:
    """Push 64 MiB without an identity."""
    server = Talker(middleware={"identity": Gate()})
    data, process = bytes(PIECE_BYTES), psutil.Process()
    before, start, sent, why = process.memory_info().rss, time.monotonic(), 0, ""
    try:
        writer, _ = server.connect().do_put(DESCRIPTOR, SCHEMA)
        while sent < 64 * MIB:
            writer.write(batch_of(data))
            sent += PIECE_BYTES
        writer.close()
    except flight.FlightUnauthenticatedError as error:
        why = type(error).__name__
    return {
        "why": why,
        "handler_entered": bool(server.entered),
        "mib_written_before_it_was_known": sent / MIB,
        "seconds": round(time.monotonic() - start, 3),
        "rss_growth_mib": round((process.memory_info().rss - before) / MIB, 1),
    }


def _push(address: str, incarnation: int, operation: Operation, nbytes: int) -> tuple[Any, Any]:
    """Push the first bytes of ones, and return writer and answers."""
    table = lay_out([("weight", "float32", (NBYTES // 4,), "parameter")])
    sequence = int(operation is Operation.UPDATE)
    header = Header("1/weights", operation, incarnation=incarnation, sequence=sequence, table=table)
    writer, answers = connect(address).do_put(DESCRIPTOR, SCHEMA)
    ones = np.ones(NBYTES // 4, np.float32).view(np.uint8).data
    for offset in range(0, nbytes, PIECE_BYTES):
        frame = Frame(None if offset else header, offset)
        writer.write_with_metadata(batch_of(ones[offset : offset + PIECE_BYTES]), encode_frame(frame))
    return writer, answers


def push_half(address: str, incarnation: int, end: str) -> None:
    """Push half of a change, then end the stream, or kill the process."""
    writer, _ = _push(address, incarnation, Operation.UPDATE, NBYTES // 2)
    time.sleep(0.3)
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    with suppress(pa.ArrowException):
        writer.close()


def cut_pushes() -> Findings:
    """Push half of a change and end or kill the stream; then push the whole change."""
    findings: Findings = {}
    with tempfile.TemporaryDirectory() as folder, serve_master(Path(folder)) as (server, master):
        incarnation = asyncio.run(master.ledger.apply(master.run.join, JoinRequest("slave"))).incarnation
        address = f"127.0.0.1:{server.port}"
        _push(address, incarnation, Operation.CREATE, NBYTES)[1].read()
        for end in ("ended", "killed"):
            command = [sys.executable, "-m", "benchmarks.flight_promises", address, str(incarnation), end]
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL, timeout=60)
            time.sleep(1.0)
            findings[f"version_after_half, {end}"] = master.store.versions()["1/weights"]
        _push(address, incarnation, Operation.UPDATE, NBYTES)[1].read()
        reading = master.parameters.read(PullRequest("1/weights"))
        findings["version_after_all"] = reading.header.version
        findings["every_byte_as_pushed"] = bool((np.frombuffer(reading.buffer, np.float32) == 2.0).all())
        reading.release()
    return findings


def threads() -> Findings:
    """Count a server's threads while idle calls are open, each over a connection of its own."""
    findings: Findings = {}
    with ExitStack() as stack:
        server = CommandProcess("benchmarks.flight_server")
        stack.callback(server.close)
        address = server.read_line().partition(",")[2]
        process, calls = psutil.Process(server.pid), list[Any]()
        for count in (0, 8, 32):
            while len(calls) < count:
                client = connect(address)
                calls.append((client, _open_push(client)))
            time.sleep(1.0)
            memory = round(process.memory_info().rss / MIB, 1)
            findings[str(count)] = {"threads": process.num_threads(), "rss_mib": memory}
        KEPT.extend(calls)
    return findings


def signals() -> Findings:
    """Compare the handlers of signals before and after a server has started."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    server = Talker()
    findings = {"ours": before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))}
    server.shutdown()
    return findings


def _run(arguments: list[str]) -> None:
    if arguments:
        push_half(arguments[0], int(arguments[1]), arguments[2])
        return
    results: Findings = {}
    for experiment in (signals, threads, cut_pushes, refused, slow_reader, blocked_write, shutdowns):
        print(f"{experiment.__name__}: {experiment.__doc__}", file=sys.stderr, flush=True)
        results[experiment.__name__] = experiment()
    print(strict_json.encode(results), flush=True)


if __name__ == "__main__":
    end_with_parent()
    code = 1
    try:
        _run(sys.argv[1:])
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        # Threads that a blocked call holds would not end.
        os._exit(code)
