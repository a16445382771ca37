"""Switch of the profile `light`: joins the calls of two neighbouring slaves, and passes messages on as bytes.

Both slaves of a pair call the master. Once both calls are there, each caller gets the hello of the other, and
the pair is open. The end of one call ends the other: both slaves call again, and the lower slave sends the
unanswered messages again. So the relay keeps no message beyond the bounded outbox of each stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from common.credentials import check_same
from common.data.replicas import meet
from common.errors import LayerwiseError, MalformedError, RefusedError, UnreachableError
from common.net.data.incoming import OpenRequests
from common.net.data.pairs import (
    HELLO_SECONDS,
    Outbox,
    Seat,
    answers,
    capacity,
    check_message,
    read_hello,
    slot_batch,
)
from common.net.data.streams import Parts
from common.shards.pushes import Buffer
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.payloads import decode_boundary, encode_boundary


class Holder(Protocol):
    """Slave that holds a lease."""

    @property
    def layer(self) -> int:
        """The layer, from 1."""

    @property
    def replica(self) -> int:
        """The replica of the layer, from 0."""


class Line:
    """Call of a slave for a neighbour.

    Attributes:
        seat: of the slave that calls.
        neighbour: seat of the slave that is called.
        incarnation: of the caller's lease.
        outbox: messages for the caller.
        peer: the neighbour's call; None while the pair is not open.
    """

    def __init__(self, seat: Seat, hello: BoundaryMessage, outbox: Outbox) -> None:
        self.seat = seat
        self.neighbour: Seat = (hello.layer, hello.replica)
        self.incarnation = hello.incarnation
        self.hello = encode_boundary(hello)
        self.outbox = outbox
        self.peer: Line | None = None


class Relay:
    """Lines by caller and neighbour; on the event loop's thread.

    Args:
        run: name of the run, which hellos must name.
        replicas: returns those of each layer at present.
        windows: of each layer, the most batches that may be out.
        slots: of each outbox, where messages may be lost (see `Slots`).
        seat: returns the holder of an incarnation's lease; raises FencedError.
        count: takes `bytes_received` and `bytes_sent`.
        broadcasts: whether layer K has a stream to every layer.
        hello_seconds: bound of the wait for a call's first message.

    Attributes:
        dropped: messages for a neighbour that is not there.
    """

    def __init__(
        self,
        run: str,
        replicas: Callable[[], Sequence[int]],
        windows: list[int],
        slots: int | None,
        seat: Callable[[int], Holder],
        count: Callable[..., None],
        hello_seconds: float = HELLO_SECONDS,
        *,
        broadcasts: bool = False,
    ) -> None:
        self._run = run
        self._broadcasts = broadcasts
        self._replicas = replicas
        self._slots = slots
        self._capacity = capacity(max(windows), slots)
        self._seat = seat
        self._count = count
        self._hello_seconds = hello_seconds
        self._lines: dict[tuple[Seat, Seat], Line] = {}
        self.dropped = 0

    async def exchange(self, requests: OpenRequests) -> AsyncGenerator[Parts, None]:
        """Answer the call of a slave for a neighbour.

        Raises:
            MalformedError: the call or a message on it breaks a rule.
            UnprovenError: the hello names a lease whose secret the call has not shown.
            RefusedError: the caller is of another run; FencedError where the caller's lease has ended.
            UnreachableError: the caller does not keep up, or has called again.
        """
        hello = await read_hello(requests, self._hello_seconds)
        check_same(hello.incarnation, requests.incarnation)
        line = self.attach(hello)
        requests.welcome(line.incarnation)
        try:
            async with aclosing(answers(line.outbox, self._read(line, requests))) as found:
                async for parts in found:
                    self._count(bytes_sent=sum(len(part) for part in parts))
                    yield parts
        finally:
            self.detach(line)

    async def _read(self, line: Line, requests: AsyncIterator[Buffer]) -> None:
        error: LayerwiseError | None = None
        try:
            async for encoded in requests:
                if line.outbox.closed:
                    return
                self._count(bytes_received=len(encoded))
                self.forward(line, encoded)
        except LayerwiseError as broken:
            error = broken
        finally:
            self.detach(line, error)

    def attach(self, hello: BoundaryMessage) -> Line:
        """Take a call in, and open its pair if the neighbour's call is there.

        An older call for the same neighbour is closed.

        Raises:
            RefusedError: the caller is of another run; FencedError where the caller's lease has ended.
            MalformedError: the caller is no neighbour of the seat, or states another replica.
        """
        line = Line(self._caller(hello), hello, Outbox(self._capacity, self._slots))
        if older := self._lines.get((line.seat, line.neighbour)):
            self.detach(older, UnreachableError("a newer stream has taken its place"))
        self._lines[line.seat, line.neighbour] = line
        peer = self._lines.get((line.neighbour, line.seat))
        if peer is not None:
            line.peer, peer.peer = peer, line
            line.outbox.put((peer.hello,))
            peer.outbox.put((line.hello,))
        return line

    def _caller(self, hello: BoundaryMessage) -> Seat:
        if hello.run != self._run:
            raise RefusedError("this is the master of another run")
        holder = self._seat(hello.incarnation)
        layer, replica = holder.layer, holder.replica
        called = (hello.layer, hello.replica)
        counts = self._replicas()
        exists = hello.sender == replica and 1 <= hello.layer <= len(counts)
        if not (exists and meet((layer, replica), called, counts, broadcasts=self._broadcasts)):
            raise MalformedError(
                f"layer {layer} replica {replica}, as replica {hello.sender}, called layer {hello.layer} "
                f"replica {hello.replica}: the two share no batch"
            )
        return layer, replica

    def forward(self, line: Line, encoded: Buffer) -> None:
        """Pass a caller's message on to the neighbour, or drop it where the neighbour is not there.

        A neighbour that does not keep up has its outbox closed, and the pair opens anew. The call of a
        neighbour whose message the caller has refused ends with the caller's reason.

        Raises:
            MalformedError: the message does not belong on the stream.
        """
        message = decode_boundary(encoded)
        check_message(message, line.seat, line.incarnation, line.neighbour)
        if line.peer is None:
            self.dropped += 1
        elif message.kind is BoundaryKind.REFUSED:
            self.detach(line.peer, MalformedError(message.reason))
        elif not line.peer.outbox.put((encoded,), slot_batch(message.kind, message.batch)):
            self.detach(line.peer, line.peer.outbox.error)

    def detach(self, line: Line, error: LayerwiseError | None = None) -> None:
        """End a call, and the neighbour's call with it.

        Args:
            line: the call; one that has ended stays so.
            error: reason, for the caller.
        """
        line.outbox.close(error)
        if self._lines.get((line.seat, line.neighbour)) is line:
            del self._lines[line.seat, line.neighbour]
        if (peer := line.peer) is not None:
            line.peer = peer.peer = None
            self.detach(peer, UnreachableError("the neighbour's stream has ended; open the stream anew"))

    def vacate(self, layer: int, replica: int) -> None:
        """End the calls of a slave whose lease has ended."""
        for line in list(self._lines.values()):
            if line.seat == (layer, replica):
                self.detach(line)

    def depth(self, layer: int, replica: int) -> int:
        """Count the messages that wait for a slave."""
        return sum(len(line.outbox) for line in self._lines.values() if line.seat == (layer, replica))
