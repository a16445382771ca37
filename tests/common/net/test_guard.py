"""common.net.guard: connections and calls at a port whose library bounds neither by address."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress

import grpc
import pytest

from common.credentials import Credentials
from common.errors import LayerwiseError, StalledError, UnprovenError, UnreachableError
from common.net import control, guard
from common.net.control import ControlServer
from common.net.data.places import Bounds
from common.net.guard import Calls, Guard
from common.net.own_sockets import peer_of
from common.wire.messages import DescribeReply, DescribeRequest
from common.wire.methods import DESCRIBE, JOIN
from tests.common.net.test_control import BEGINNING, DEADLINE
from tests.integration.processes import until

OPENING = 10.0


class Port:
    """Port of a library that takes every connection, with a guard that looks when it is told to."""

    def __init__(self, stack: ExitStack, bounds: Bounds) -> None:
        self._stack = stack
        self._listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.errors: list[LayerwiseError] = []
        self.guard = Guard(bounds, self.errors.append, OPENING)
        self.guard._port = self._listening.getsockname()[1]

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        came = self._stack.enter_context(
            socket.create_connection(self._listening.getsockname(), DEADLINE, (host, 0))
        )
        self._stack.enter_context(self._listening.accept()[0])
        return came

    def connect_in_turn(self, number: int) -> list[socket.socket]:
        """Connect, and look each time: within a look nobody knows the order of arrival."""
        came = []
        for _ in range(number):
            came.append(self.connect())
            self.look()
        return came

    def note(self, stream: socket.socket, incarnation: int = 0, ends: float = math.inf) -> None:
        self.guard.note(stream.getsockname(), incarnation, ends)

    def look(self, now: float = 0.0, date: float = 0.0) -> None:
        self.guard.look(now, date)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def is_open(stream: socket.socket) -> bool:
    stream.settimeout(0.0)
    try:
        return stream.recv(1) != b""
    except BlockingIOError:
        return True


def test_an_address_has_a_bounded_number_of_connections_and_the_newest_stay(stack: ExitStack) -> None:
    port = Port(stack, Bounds(address=2))
    crowd = port.connect_in_turn(3)
    other = port.connect("127.0.0.2")
    port.look()
    crowd.append(port.connect())
    port.look()
    assert [is_open(each) for each in (*crowd, other)] == [False, False, True, True, True]
    assert [type(each) for each in port.errors] == [UnreachableError] * 2


def test_beyond_the_bound_of_all_strangers_the_address_with_the_most_loses_one(stack: ExitStack) -> None:
    port = Port(stack, Bounds(strangers=3))
    crowd = port.connect_in_turn(3)
    other = port.connect("127.0.0.2")
    port.look()
    assert [is_open(each) for each in (*crowd, other)] == [False, True, True, True]


def test_a_lease_holder_keeps_its_place_whoever_crowds_the_port(stack: ExitStack) -> None:
    port = Port(stack, Bounds(address=2, holder=2))
    holder = port.connect()
    port.look()
    port.note(holder, incarnation=7)
    port.look()
    late = port.connect()
    port.note(late, incarnation=7)
    crowd = [port.connect() for _ in range(9)]
    port.look(now=9 * OPENING)
    assert is_open(holder)
    assert is_open(late)
    assert sum(map(is_open, crowd)) == 2


def test_a_connection_that_shows_no_right_in_time_is_ended(stack: ExitStack) -> None:
    port = Port(stack, Bounds())
    silent, reader = port.connect(), port.connect()
    port.look(now=100.0)
    port.note(reader)
    port.look(now=100.0 + OPENING)
    assert is_open(silent)
    for _ in range(2):
        port.look(now=100.1 + OPENING)
    assert not is_open(silent)
    assert is_open(reader)
    assert [type(each) for each in port.errors] == [StalledError]


def test_a_connection_ends_with_its_certificate(stack: ExitStack) -> None:
    port = Port(stack, Bounds())
    stream = port.connect()
    port.note(stream, incarnation=1, ends=1000.0)
    port.look(date=1000.0)
    assert is_open(stream)
    port.look(date=1000.1)
    assert not is_open(stream)
    assert port.errors == []


def test_rights_of_connections_that_are_gone_are_forgotten(stack: ExitStack) -> None:
    port = Port(stack, Bounds())
    port.guard.note(("127.0.0.1", 1), 1)
    port.look()
    assert port.guard._shown == {}


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ipv4:10.0.0.1:5000", ("10.0.0.1", 5000)),
        ("ipv6:%5B2001:db8::1%5D:5000", ("2001:db8::1", 5000)),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", ("fe80::1", 5000)),
        ("ipv6:[::ffff:10.0.0.1]:5000", ("10.0.0.1", 5000)),
        ("unix:/run/port", None),
    ],
)
def test_the_librarys_names_of_peers_are_those_of_the_system(text: str, peer: object) -> None:
    assert peer_of(text) == peer


def test_calls_of_an_address_and_of_all_strangers_are_bounded() -> None:
    calls = Calls(Bounds(address=2, strangers=3))
    with ExitStack() as stack:
        for host in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
            stack.enter_context(calls.place((host, 1), 0))
        stack.enter_context(calls.place(("10.0.0.1", 1), incarnation=1))
        for host in ("10.0.0.1", "10.0.0.2"):
            with pytest.raises(UnreachableError, match="call again later"), calls.place((host, 1), 0):
                pass
    with calls.place(("10.0.0.1", 1), 0):
        pass


def test_a_connection_that_lost_its_place_while_files_were_short_is_ended_once_they_are_there(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    port = Port(stack, Bounds())
    silent = port.connect()
    port.look()
    monkeypatch.setattr("os.dup", fail)
    with pytest.raises(OSError, match="too many open files"):
        port.look(now=OPENING + 1)
    monkeypatch.undo()
    assert is_open(silent)
    port.look(now=OPENING + 2)
    assert not is_open(silent)
    assert len(port.errors) == 1


def test_a_call_whose_message_does_not_come_keeps_no_newer_call_out() -> None:
    errors: list[LayerwiseError] = []

    async def describe(_: object) -> DescribeReply:
        return DescribeReply("a run")

    async def run() -> tuple[grpc.StatusCode, str]:
        server = ControlServer(errors.append, bounds=Bounds(address=2))
        server.add(DESCRIBE, describe)
        address = await server.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(DEADLINE / 2):
            idle = [_code(channel, DESCRIBE.path)]
            await _reached(server, 1)
            idle.append(_code(channel, DESCRIBE.path))
            await _reached(server, 2)
            for _ in range(2):
                reply = await control.async_call(channel, DESCRIBE, DescribeRequest())
                assert reply == DescribeReply("a run")
            ended = await idle[0].code(), await idle[0].details()
            assert not idle[1].done()
        await server.stop(0)
        return ended

    code, details = asyncio.run(run())
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "given its place to a newer one" in details
    assert isinstance(errors[0], UnreachableError)


async def _reached(server: ControlServer, calls: int) -> None:
    while sum(call.waits for each in server._calls._by_address.values() for call in each) < calls:
        await asyncio.sleep(0.01)


async def _describe(_: object) -> object:
    raise AssertionError("no caller may come so far")


def _refuse(path: str, shown: Credentials) -> None:
    if path == JOIN.path:
        raise UnprovenError("no token was shown")


async def _endless() -> AsyncIterator[bytes]:
    await asyncio.sleep(DEADLINE)
    yield b""


def _code(channel: grpc.aio.Channel, path: str) -> grpc.aio.StreamUnaryCall:
    return channel.stream_unary(path)(_endless())


def test_a_stranger_is_refused_before_its_message_comes_and_a_call_without_one_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "OPENING_SECONDS", 0.2)
    errors: list[LayerwiseError] = []

    async def run() -> list[grpc.StatusCode]:
        server = ControlServer(errors.append, _refuse)
        for method in (JOIN, DESCRIBE):
            server.add(method, _describe)
        address = await server.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(DEADLINE / 2):
            codes = [await _code(channel, method.path).code() for method in (JOIN, DESCRIBE)]
        await server.stop(0)
        return codes

    assert asyncio.run(run()) == [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.DEADLINE_EXCEEDED]
    assert [type(each) for each in errors] == [UnprovenError, StalledError]


def test_a_control_port_ends_connections_that_never_make_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(control, "OPENING_SECONDS", 0.2)

    def read_to_the_end(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as stream:
            stream.sendall(BEGINNING)
            with suppress(ConnectionError):
                while stream.recv(100):
                    pass

    async def run() -> None:
        errors: list[LayerwiseError] = []
        server = ControlServer(errors.append)
        port = int((await server.start("127.0.0.1:0")).rpartition(":")[2])
        await asyncio.to_thread(read_to_the_end, port)
        await asyncio.to_thread(until, lambda: bool(errors), DEADLINE)
        await server.stop(0)

    asyncio.run(run())
