"""Whatever a peer sends, a connection ends in order, in bounded memory; windows are kept."""

from __future__ import annotations

import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import hpack
import pytest

from common.credentials import INCARNATION
from common.errors import LayerwiseError
from common.net.data.messages import CONTENT_TYPE, Messages
from common.net.data.server import DataServer
from common.net.http2 import frames
from common.net.http2.connection import Connection
from common.net.http2.frames import BrokenError, Code, Kind, ResetError, frame, settings
from common.wire.methods import PULL, PUSH
from tests.common.net.certificates import Contexts, tls

__all__ = ["tls"]  # a fixture

DEADLINE = 20.0
ASK = [(":method", "POST"), (":path", PUSH.path), ("content-type", CONTENT_TYPE), (INCARNATION, "1")]


def echo(messages: Messages) -> None:
    """Send back what comes."""
    while (message := messages.read()) is not None:
        messages.send(message)


@dataclass(frozen=True)
class Echo:
    """Port of a server that echoes, and TLS of both ends."""

    port: int
    tls: Contexts


@pytest.fixture
def server(tls: Contexts) -> Iterator[Echo]:
    """A server that echoes, so that both directions are used."""
    made = DataServer(tls=tls.server)
    made.add(PUSH, echo)
    made.add(PULL, echo)
    yield Echo(made.start("127.0.0.1", 0), tls)
    made.stop()


@contextmanager
def connected(server: Echo) -> Iterator[Connection]:
    stream = socket.create_connection(("127.0.0.1", server.port), DEADLINE)
    connection = Connection(stream, serves=False, tls=server.tls.client, host="127.0.0.1")
    connection.pipe.set_deadline(time.monotonic() + DEADLINE)
    connection.open()
    yield connection
    connection.pipe.close()


def headers(stream: int = 1, flags: int = frames.END_HEADERS) -> bytes:
    return frame(Kind.HEADERS, flags, stream, hpack.Encoder().encode(ASK))


def data(payload: bytes, stream: int = 1, flags: int = 0) -> bytes:
    return frame(Kind.DATA, flags, stream, payload)


HELLO = frames.PREFACE + settings({})
CONTINUED = frame(Kind.CONTINUATION, 0, 1, bytes(9000))
MESSAGE = b"\0\0\0\0\3abc"


def said(server: Echo, *what: bytes, over: int | None = None) -> bytes:
    """All that a server answers to some bytes, until it closes, or has ended stream `over`."""
    answer = b""
    with server.tls.dial(server.port, DEADLINE) as peer:
        try:
            peer.sendall(b"".join(what))
            while not is_over(answer, over) and (got := peer.recv(1 << 16)):
                answer += got
        except ConnectionError:
            pass
    return answer


def is_over(answer: bytes, stream: int | None) -> bool:
    return any(
        (kind, of) == (Kind.HEADERS, stream) and flags & frames.END_STREAM
        for kind, flags, of, _ in parsed(answer)
    )


def parsed(answer: bytes) -> list[tuple[int, int, int, bytes]]:
    """(kind, flags, stream, payload) of each frame."""
    found = []
    while len(answer) >= 9:
        length = int.from_bytes(answer[:3], "big")
        stream = int.from_bytes(answer[5:9], "big")
        found.append((answer[3], answer[4], stream, answer[9 : 9 + length]))
        answer = answer[9 + length :]
    return found


def goodbye(answer: bytes) -> Code | None:
    """The code of GOAWAY, with which a connection that breaks a rule ends."""
    kind, _, _, payload = parsed(answer)[-1]
    return Code(int.from_bytes(payload[4:8], "big")) if kind == Kind.GOAWAY else None


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ([b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"], Code.PROTOCOL_ERROR),
        ([frames.PREFACE, headers()], Code.PROTOCOL_ERROR),
        ([HELLO, data(b"x")], Code.PROTOCOL_ERROR),
        ([HELLO, headers(2)], Code.PROTOCOL_ERROR),
        ([HELLO, frames.frame_head(Kind.DATA, 0, 1, frames.LARGEST_FRAME_BYTES + 1)], Code.FRAME_SIZE_ERROR),
        ([HELLO, frames.frame_head(Kind.PING, 0, 0, 1 << 20)], Code.FRAME_SIZE_ERROR),
        ([HELLO, frame(Kind.PING, payload=b"1234567")], Code.FRAME_SIZE_ERROR),
        ([HELLO, frame(Kind.RST_STREAM, stream=1, payload=b"123")], Code.FRAME_SIZE_ERROR),
        ([HELLO, frame(Kind.SETTINGS, stream=1)], Code.PROTOCOL_ERROR),
        ([HELLO, frame(Kind.PING, stream=1, payload=b"12345678")], Code.PROTOCOL_ERROR),
        ([HELLO, frame(Kind.SETTINGS, payload=b"1234567")], Code.FRAME_SIZE_ERROR),
        ([HELLO, settings({frames.WINDOW: 1 << 31})], Code.FLOW_CONTROL_ERROR),
        ([HELLO, settings({frames.FRAME_BYTES: 1})], Code.PROTOCOL_ERROR),
        ([HELLO, frames.window_update(0, 0)], Code.PROTOCOL_ERROR),
        ([HELLO, frames.window_update(0, frames.LARGEST_WINDOW)], Code.FLOW_CONTROL_ERROR),
        ([HELLO, frame(Kind.PUSH_PROMISE, stream=1, payload=b"1234")], Code.PROTOCOL_ERROR),
        ([HELLO, frame(Kind.CONTINUATION, stream=1)], Code.PROTOCOL_ERROR),
        ([HELLO, frame(Kind.HEADERS, frames.END_HEADERS, 1, b"\xff" * 40)], Code.COMPRESSION_ERROR),
        ([HELLO, frame(Kind.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b"\xff1")], Code.PROTOCOL_ERROR),
        ([HELLO, headers(), data(b"\4abc", flags=frames.PADDED)], Code.PROTOCOL_ERROR),
        ([HELLO, headers(flags=0), data(b"x")], Code.PROTOCOL_ERROR),
        ([HELLO, headers(flags=0), *[CONTINUED] * 2], Code.ENHANCE_YOUR_CALM),
    ],
)  # fmt: skip
def test_who_breaks_a_rule_is_told_which_and_sent_away(server: Echo, what: list[bytes], code: Code) -> None:
    assert goodbye(said(server, *what)) == code


def test_pings_padding_priorities_and_unknown_frames_are_as_the_rules_have_them(
    server: Echo,
) -> None:
    answer = parsed(
        said(
            server,
            HELLO,
            frame(Kind.PING, payload=b"12345678"),
            frame(Kind.PRIORITY, stream=1, payload=bytes(5)),
            frame_of_kind(77),
            headers(),
            data(b"\2" + MESSAGE[:4] + b"\0\0", flags=frames.PADDED),
            data(b""),
            data(MESSAGE[4:], flags=frames.END_STREAM),
            over=1,
        )
    )
    assert (Kind.PING, frames.ACK, 0, b"12345678") in answer
    assert [payload for kind, _, _, payload in answer if kind == Kind.DATA] == [MESSAGE]
    assert answer[-1][:3] == (Kind.HEADERS, frames.END_STREAM | frames.END_HEADERS, 1)


def frame_of_kind(kind: int) -> bytes:
    return bytes((0, 0, 3, kind, 0, 0, 0, 0, 0)) + b"xyz"


def test_a_second_stream_at_the_same_time_is_refused_and_harms_nothing(server: Echo) -> None:
    both = [headers(1), headers(3), data(MESSAGE, 3), data(MESSAGE, 1, frames.END_STREAM)]
    answer = parsed(said(server, HELLO, *both, over=1))
    assert (Kind.RST_STREAM, 0, 3, Code.REFUSED_STREAM.to_bytes(4, "big")) in answer
    assert [(stream, payload) for kind, _, stream, payload in answer if kind == Kind.DATA] == [(1, MESSAGE)]


def test_a_narrow_window_is_kept_and_waited_for(server: Echo) -> None:
    with server.tls.dial(server.port, DEADLINE) as peer:
        narrow = settings({frames.WINDOW: 10})
        peer.sendall(frames.PREFACE + narrow + headers() + data(b"\0\0\0\0\x14" + bytes(range(20))))
        got = b""
        while len(bodies(got)) < 10:
            got += peer.recv(1 << 16)
        assert len(bodies(got)) == 10
        peer.sendall(frames.window_update(1, 100))
        while len(bodies(got)) < 25:
            got += peer.recv(1 << 16)
    assert bodies(got) == b"\0\0\0\0\x14" + bytes(range(20))


def bodies(answer: bytes) -> bytes:
    return b"".join(payload for kind, _, _, payload in parsed(answer) if kind == Kind.DATA)


def test_more_than_all_windows_goes_over_one_connection(
    server: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows are widened in time, of the connection and of each stream, and never too wide."""
    monkeypatch.setattr(frames, "OWN_WINDOW", 1 << 21)
    payload = bytes(1 << 20)
    with connected(server) as connection:
        for _ in range(3):
            connection.request(ASK)
            messages = Messages(connection)
            connection.headers()
            for _ in range(4):
                messages.send(payload)
                assert bytes(messages.read() or b"") == payload
            connection.send(last=True)
            assert messages.read() is None
            assert dict(connection.headers())["grpc-status"] == "0"


def test_a_stream_that_its_sender_gives_up_leaves_the_connection_usable(server: Echo) -> None:
    given_up = [headers(1), data(MESSAGE[:5]), frames.reset(1, Code.CANCEL)]
    answer = said(server, HELLO, *given_up, headers(3), data(MESSAGE, 3, frames.END_STREAM), over=3)
    assert bodies(answer) == MESSAGE


def test_what_a_peer_does_not_send_in_time_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, serves=True)
    connection.pipe.set_deadline(time.monotonic() + 0.05)
    with pytest.raises(LayerwiseError, match="stood still"):
        connection.open()
    connection.pipe.close()
    theirs.close()


# --- whatever bytes come ----------------------------------------------------------------------------------


def mutated(rng: random.Random) -> bytes:
    """A conversation with some of its bytes changed, lost, repeated or added."""
    talk = [HELLO, headers(1), data(MESSAGE), frame(Kind.PING, payload=bytes(8)), data(MESSAGE * 50)]
    talk += [frames.window_update(1, 9), data(b"", flags=frames.END_STREAM), headers(3), data(MESSAGE, 3)]
    if rng.random() < 0.5:
        rng.shuffle(talk[1:])
    return with_changes(rng, talk)


def with_changes(rng: random.Random, talk: list[bytes]) -> bytes:
    """What is said, with some of its bytes changed, lost, repeated or added."""
    changed = bytearray(b"".join(talk))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(frames.PREFACE) if rng.random() < 0.9 else 0, len(changed) + 1)
        what = rng.randrange(3)
        if what == 0:
            changed[at : at + 1] = rng.randbytes(1)
        elif what == 1:
            del changed[at : at + rng.randint(1, 20)]
        else:
            changed[at:at] = rng.choice((rng.randbytes(rng.randint(1, 20)), b"\xff" * 9, bytes(9)))
    return bytes(changed)


def conversation(what: bytes) -> str:
    """How one connection ends, run as a server's thread runs it, over a pair of sockets."""
    ours, theirs = socket.socketpair()
    outcome: list[str] = []
    served = DataServer()
    served.add(PUSH, echo)
    connection = Connection(ours, serves=True)
    thread = threading.Thread(target=lambda: outcome.append(ended(served, connection)))
    thread.start()
    theirs.settimeout(DEADLINE)
    got = b""
    try:
        theirs.sendall(what)
        theirs.shutdown(socket.SHUT_WR)
        while more := theirs.recv(1 << 16):
            got += more
    except ConnectionError:
        pass
    thread.join(DEADLINE)
    assert not thread.is_alive()
    theirs.close()
    return outcome[0] if outcome[0] != "refused" or goodbye(got) is not None else "not told"


def ended(server: DataServer, connection: Connection) -> str:
    refused = False
    refuse: Callable[[Code, str], None] = connection.refuse

    def noted(code: Code, text: str) -> None:
        nonlocal refused
        refused = True
        refuse(code, text)

    connection.refuse = noted  # type: ignore[method-assign]
    server._serve(connection)
    return "refused" if refused else "closed"


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_bytes_end_a_connection_in_order_and_take_no_memory(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(7)
    for _ in range(50):
        conversation(mutated(rng))
    tracemalloc.start()
    outcomes = [conversation(mutated(rng)) for _ in range(count)]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert set(outcomes) == {"refused", "closed"}
    assert "not told" not in outcomes
    assert most < 12 << 20
    # A defect of ours would be in the log with its traceback.
    assert not [record for record in caplog.records if record.exc_info]


def test_a_client_survives_what_a_server_should_not_say() -> None:
    rng = random.Random(3)
    begun, over = (hpack.Encoder().encode([each]) for each in ((":status", "200"), ("grpc-status", "0")))
    good = settings({}) + frame(Kind.HEADERS, frames.END_HEADERS, 1, begun)
    good += data(MESSAGE * 3) + frame(Kind.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, over)
    for _ in range(300):
        changed = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        ours, theirs = socket.socketpair()
        theirs.sendall(changed)
        theirs.shutdown(socket.SHUT_WR)
        connection = Connection(ours, serves=False)
        connection.pipe.set_deadline(time.monotonic() + DEADLINE)
        try:
            connection.open()
            connection.request(ASK)
            connection.headers()
            messages = Messages(connection)
            while messages.read() is not None:
                pass
            connection.headers()
        except (BrokenError, ResetError, LayerwiseError):
            pass
        connection.pipe.close()
        theirs.close()
