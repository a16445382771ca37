"""Large pushes by rate: a crawler has a place while nobody faster waits, and gives the place up then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from common.errors import StalledError
from common.net.data.callers import Requests
from common.net.data.client import DataClient, pull
from common.net.data.server import DataServer
from common.net.http2.pace import Pace
from common.shards.pushes import Frame, Header, Operation, PullRequest
from common.wire.methods import PULL
from common.wire.payloads import CHUNK_BYTES, frame_parts
from master.servicers.large_pushes import SLOWEST, LargePushes
from protos import layerwise_pb2 as pb
from tests.integration.processes import until
from tests.master.large import COUNT, chunks, second_port, served_large
from tests.master.pushes import parameters
from tests.master.served import DEADLINE, Client, Served, Stream

SECONDS = 30.0
SLOW = SLOWEST // 20


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def send(self, seconds: int, rate: int, *places: Pace) -> None:
        """Have pushes come at a rate."""
        for _ in range(seconds):
            self.now += 1.0
            for place in places:
                place.take(rate)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pushes(clock: Clock) -> LargePushes:
    return LargePushes(SECONDS, clock)


Wait = Callable[[str], None]


@pytest.fixture
def entered() -> list[str]:
    """Shards of the pushes that got a place after a wait."""
    return []


@pytest.fixture
def wait(pushes: LargePushes, entered: list[str]) -> Iterator[Wait]:
    """Have a push wait for a place, on a thread."""
    permits, threads = pushes._permits, []

    def enter(shard: str) -> None:
        with pushes.hold(shard, 0):
            entered.append(shard)

    def begin(shard: str) -> None:
        before = len(permits._waiting) + len(permits._last)
        threads.append(threading.Thread(target=enter, args=(shard,)))
        threads[-1].start()
        until(lambda: len(permits._waiting) + len(permits._last) > before)

    yield begin
    for thread in threads:
        thread.join(DEADLINE)


def crawl_through(pushes: LargePushes, clock: Clock, shard: str) -> None:
    """Have a slow push come to its end, so that its sender is known as slow."""
    with pushes.hold(shard, 0) as place:
        clock.send(60, SLOW, place)


def test_a_crawler_keeps_its_place_while_nobody_waits(pushes: LargePushes, clock: Clock) -> None:
    with pushes.hold("1/weights", 0) as one, pushes.hold("2/weights", 0) as other:
        clock.send(7200, SLOW, one, other)


def test_a_crawler_gives_its_place_to_a_push_that_waits(
    pushes: LargePushes, clock: Clock, wait: Wait
) -> None:
    with pushes.hold("1/weights", 0) as one, pushes.hold("2/weights", 0) as other:
        clock.send(600, SLOW, one, other)
        wait("3/weights")
        with pytest.raises(StalledError, match="another push waited"):
            clock.send(20, SLOW, one, other)


def test_a_fast_push_keeps_its_place_whoever_waits(pushes: LargePushes, clock: Clock, wait: Wait) -> None:
    with pushes.hold("1/weights", 0) as one, pushes.hold("2/weights", 0) as other:
        wait("3/weights")
        clock.send(600, 2 * SLOWEST, one, other)


def test_slow_senders_do_not_drive_each_other_out(pushes: LargePushes, clock: Clock, wait: Wait) -> None:
    crawl_through(pushes, clock, "3/weights")
    with pushes.hold("1/weights", 0) as one, pushes.hold("2/weights", 0) as other:
        wait("3/weights")
        clock.send(600, SLOW, one, other)


def test_a_sender_that_was_slow_stands_back_for_others(
    pushes: LargePushes, clock: Clock, wait: Wait, entered: list[str]
) -> None:
    crawl_through(pushes, clock, "3/weights")
    with pushes.hold("1/weights", 0):
        with pushes.hold("2/weights", 0):
            wait("3/weights")
            wait("4/weights")
        until(lambda: len(entered) == 2)
    assert entered == ["4/weights", "3/weights"]


# --- over sockets

STALLED_SECONDS = 1.5
# Forty times the floor, and a fraction of the rate of a push that keeps its place.
PIECE, PAUSE_SECONDS = 1600, 0.01


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    with served_large(tmp_path) as running:
        yield running


@pytest.fixture
def client(master: Served) -> Iterator[Client]:
    with second_port(master, STALLED_SECONDS) as found:
        yield found


class Crawler:
    """Sender of a large push in tiny pieces, on a thread."""

    def __init__(self, stream: Stream, layer: int) -> None:
        self.sent = 0
        self._stream = stream
        self._stopped = threading.Event()
        self._first = chunks(layer)[0]
        self._thread = threading.Thread(target=self._crawl)
        self._thread.start()

    def _crawl(self) -> None:
        self._stream.write(self._first)
        for offset in range(CHUNK_BYTES, 3 * CHUNK_BYTES, PIECE):
            if self._stopped.wait(PAUSE_SECONDS):
                return
            self._stream.write(pb.Frame(offset=offset, data=bytes(PIECE)))
            self.sent += PIECE

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(DEADLINE)


def test_two_crawlers_keep_nobody_out_and_have_their_places_until_then(
    master: Served, client: Client
) -> None:
    with client.pushing() as one, client.pushing() as other, ExitStack() as stack:
        crawlers = [Crawler(stream, layer) for layer, stream in ((1, one), (2, other))]
        for crawler in crawlers:
            stack.callback(crawler.stop)
        # Longer than a push that stands still would have.
        until(lambda: min(each.sent for each in crawlers) > 2 * STALLED_SECONDS / PAUSE_SECONDS * PIECE)
        assert one._call.is_active()
        assert other._call.is_active()
        with client.pushing() as third:
            third.write(*chunks(3))
            assert third.read().applied
        until(lambda: not all(stream._call.is_active() for stream in (one, other)))
        (ended,) = [stream for stream in (one, other) if not stream._call.is_active()]
        with pytest.raises(grpc.RpcError, match="while another push waited") as refused:
            ended.read()
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert master.master.store.versions() == {"1/weights": 0, "2/weights": 0, "3/weights": 1}


# --- pulls

PULL_SECONDS = 1.0


class SlowMaster:
    """Sends a shard in pieces with pauses; stops half-way until told to go on."""

    def __init__(self, *, stops: bool) -> None:
        self._stops = stops
        self.over = threading.Event()

    def pull(self, messages: Requests) -> None:
        assert messages.read() is not None
        header = Header("1/weights", Operation.VALUE, 0, 0, 0, 0, parameters(COUNT))
        data = memoryview(bytes(4 * COUNT))
        step = len(data) // 48
        for offset in range(0, len(data), step):
            if self._stops and offset > len(data) // 2:
                self.over.wait(DEADLINE)
            # A pull of more than two seconds.
            self.over.wait(0.045)
            first = None if offset else header
            messages.send(*frame_parts(Frame(first, offset, data[offset : offset + step])))


@pytest.mark.parametrize("stops", [False, True], ids=["goes on", "stops"])
def test_a_pull_goes_on_beyond_its_patience_and_ends_at_a_standstill(stops: bool) -> None:
    slow, server = SlowMaster(stops=stops), DataServer()
    server.add(PULL, slow.pull)
    port = server.start("127.0.0.1", 0)
    client = DataClient(lambda: ("127.0.0.1", port))
    try:
        began = time.monotonic()
        if stops:
            with pytest.raises(StalledError, match="stood still"):
                pull(client, PullRequest("1/weights"), PULL_SECONDS)
        else:
            _, buffer = pull(client, PullRequest("1/weights"), PULL_SECONDS)
            assert buffer.nbytes == 4 * COUNT
            assert time.monotonic() - began > 2 * PULL_SECONDS
    finally:
        slow.over.set()
        client.drop()
        server.stop()
