"""Boundary messages of one lease: a stream for every pair of neighbouring slaves that share a batch.

Activations travel up on the stream and gradients down. A profile (`dialers`) says whom to call for a
neighbour. Messages under way when a stream breaks are lost: once the pair is open again, the lower trainer
gets `Ready` and sends the unanswered messages again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

from common.errors import (
    FencedError,
    LayerwiseError,
    MalformedError,
    RefusedError,
    TooLargeError,
    UnprovenError,
    UnreachableError,
)
from common.net.data import streams
from common.net.data.incoming import OpenRequests
from common.net.data.pairs import (
    Ends,
    Seat,
    answers,
    check_message,
    decode_hello,
    is_proven_hello,
    prove_hello,
    refusal,
    slot_batch,
    transmit,
)
from common.net.data.streams import Parts, Stream
from common.net.tasks import cancel, run_until_one_ends
from common.shards.pushes import Buffer
from common.wire.boundary import Message, Ready
from common.wire.messages import BoundaryKind, BoundaryMessage, JoinReply
from common.wire.methods import EXCHANGE
from common.wire.payloads import decode_boundary, encode_boundary
from common.wire.signals import from_wire
from slave.network.correspondent import Correspondent
from slave.network.dialers import Dialer
from slave.network.mail import Arrivals, Inbox
from slave.network.neighbours import Neighbours
from slave.network.pair import Boundary, Pair
from slave.network.servicer import BoundaryServer

log = logging.getLogger("layerwise.slave")

# A neighbour whose message was refused has so long to read the reason.
REFUSAL_SECONDS = 5.0


class Links:
    """Messages of one lease, to and from the neighbouring layers.

    Args:
        lease: granted by the master.
        boundary: the neighbours and the bounds.
        dialer: the profile.
        inbox: takes every arriving `Message`, and a `Ready` when a pair with a neighbour above opens.
        neighbours: known holders of the neighbouring seats.
        server: takes the calls of neighbours; None where no neighbour calls.
        on_refusal: takes the layer of a neighbour whose message was refused.

    Attributes:
        admit: raises MalformedError for a message that the layer cannot use; set before `run`.
    """

    def __init__(
        self,
        lease: JoinReply,
        boundary: Boundary,
        dialer: Dialer,
        inbox: Inbox,
        neighbours: Neighbours,
        server: BoundaryServer | None = None,
        on_refusal: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._lease = lease
        self._here: Seat = (lease.layer, lease.replica)
        self._boundary = boundary
        self._dialer = dialer
        self._inbox = inbox
        self._neighbours = neighbours
        self._server = server
        self._on_refusal = on_refusal
        self.admit: Callable[[Message], None] = lambda _: None
        self._pairs: dict[Seat, Pair] = {}
        self._accused = asyncio.Event()
        self._reason = ""
        # The last slave on each seat that opened a pair.
        self._correspondents: dict[Seat, Correspondent] = {}

    def send(self, message: Message, encoded: Parts) -> None:
        """Hand over a message and its encoding; on the event loop's thread.

        A message for a neighbour without an open pair is dropped: the trainer gets a `Ready` later. So is one
        that the trainer sends before it has taken that `Ready`: the message would overtake the older ones. A
        stream to a neighbour that does not keep up is closed.
        """
        seat = (message.layer, message.replica)
        if correspondent := self._correspondents.get(seat):
            correspondent.note_sent(message)
        pair = self._pairs.get(seat)
        if pair is not None and not pair.dropping:
            pair.outbox.put(encoded, slot_batch(message.kind, message.batch))

    def resume(self, ready: Ready) -> None:
        """Send what the trainer hands over after the `Ready` that it has taken; on the loop's thread."""
        pair = self._pairs.get((ready.layer, ready.sender))
        if pair is not None:
            pair.dropping = False

    async def run(self) -> None:
        """Keep a pair open with every neighbour until cancelled.

        Raises:
            LayerwiseError: the lease cannot go on.
        """
        work = [
            self._fence(),
            self._heed_refusal(),
            *(self._keep_calling(seat) for seat in self._dialer.seats),
        ]
        tasks = [asyncio.ensure_future(each) for each in work]
        if self._server is not None:
            self._server.links = self
        try:
            await asyncio.gather(*tasks)
        finally:
            if self._server is not None:
                self._server.links = None
            await cancel(tasks)
            for pair in self._pairs.values():
                pair.outbox.close(UnreachableError("the lease has ended"))

    # --- calls by this slave

    async def _keep_calling(self, seat: Seat) -> None:
        while True:
            error: LayerwiseError | None = None
            try:
                address = await self._dialer.locate(seat)
                if address is not None:
                    await run_until_one_ends(self._call(seat, *address), self._dialer.replaced(seat))
            except LayerwiseError as failure:
                error = failure
            await self._dialer.pause(seat, error)

    async def _call(self, seat: Seat, host: str, port: int) -> None:
        """Call for a neighbour once, and exchange messages until the stream ends."""
        dialer = self._dialer
        async with streams.opened(host, port, EXCHANGE, shown=dialer.shown, tls=dialer.tls) as stream:
            self._dialer.reached(seat)
            await stream.write(encode_boundary(self._hello(seat, stream.peer)))
            greeting = await stream.read()
            if greeting is None:
                return
            pair = await self._open(seat, decode_hello(greeting), stream.peer)
            self._dialer.met(seat)
            try:
                await run_until_one_ends(self._receive(pair, stream), self._transmit(pair, stream))
            finally:
                self._forget(pair)

    async def _receive(self, pair: Pair, stream: Stream) -> None:
        while (encoded := await stream.read()) is not None:
            # What comes behind a refused message is dropped.
            if pair.refused:
                continue
            try:
                self._take(pair, encoded)
            except (MalformedError, TooLargeError) as error:
                # The neighbour is at fault, and is told: the call ends, and the lease goes on.
                pair.refused = True
                word = refusal(self._here, pair.seat, str(error))
                pair.outbox.close(last=(encode_boundary(word),))

    async def _transmit(self, pair: Pair, stream: Stream) -> None:
        await transmit(stream, pair.outbox)
        if pair.refused:
            # The neighbour ends the call once it has read the reason.
            await asyncio.sleep(REFUSAL_SECONDS)

    # --- calls by neighbours

    async def accepted(self, hello: BoundaryMessage, requests: OpenRequests) -> AsyncGenerator[Parts, None]:
        """Answer the call of a slave below: a hello, then messages.

        Raises:
            RefusedError: the caller is of a different run, or looks for a different slave.
            FencedError: the caller's lease has passed to a successor.
            LayerwiseError: the reason why the stream was closed.
        """
        below = self._lease.layer - 1
        seat = (hello.sender_layer or below, hello.sender)
        if seat not in [*((below, sender) for sender in self._boundary.senders), *self._boundary.far]:
            raise RefusedError(f"replica {hello.sender} of layer {seat[0]} shares no batch with this slave")
        pair = await self._open(seat, hello, requests.peer)
        requests.welcome(hello.incarnation)
        pair.outbox.put((encode_boundary(self._hello(seat, requests.peer)),))
        try:
            async with aclosing(answers(pair.outbox, self._read(pair, requests))) as outgoing:
                async for parts in outgoing:
                    yield parts
        finally:
            self._forget(pair)

    async def _read(self, pair: Pair, requests: AsyncIterator[Buffer]) -> None:
        error: LayerwiseError = UnreachableError("the stream has ended")
        try:
            async for encoded in requests:
                if pair.outbox.closed:
                    return
                self._take(pair, encoded)
        except LayerwiseError as broken:
            error = broken
        finally:
            pair.outbox.close(error)

    async def _fence(self) -> None:
        """Close the streams of neighbours whose seats have passed to successors."""
        while True:
            await self._neighbours.change()
            for pair in list(self._pairs.values()):
                peer = self._neighbours.at(pair.seat)
                if peer is not None and peer.incarnation > pair.incarnation:
                    pair.outbox.close(_fenced(pair.incarnation, peer.incarnation))

    async def _heed_refusal(self) -> None:
        """End the lease once a slave below has refused a message, as after the same status of one above.

        Raises:
            MalformedError: the reason.
        """
        await self._accused.wait()
        raise MalformedError(self._reason)

    # --- calls in either direction

    def _hello(self, seat: Seat, receiver: str) -> BoundaryMessage:
        """Build the hello for a neighbour that has shown a certificate of a name; empty in the clear."""
        lease, peer = self._lease, self._neighbours.at(seat)
        hello = BoundaryMessage(
            BoundaryKind.PAIR,
            *seat,
            incarnation=lease.incarnation,
            sender=lease.replica,
            run=lease.run,
            sender_layer=lease.layer,
        )
        # In `light` the master knows both slaves.
        if peer is None or self._server is None:
            return hello
        return replace(hello, proof=prove_hello(hello, peer.secret, Ends(self._server.holder, receiver)))

    async def _open(self, seat: Seat, hello: BoundaryMessage, sender: str) -> Pair:
        """Open a pair by the neighbour's hello, in the place of an older pair.

        Raises:
            RefusedError: the neighbour is of a different run, looks for a different slave, answers for a
                different replica, or claims a lease that the master has not granted.
            UnprovenError: the neighbour does not know the secret of the pair.
            FencedError: the neighbour's lease has passed to a successor.
            UnreachableError: the neighbour has to wait, after a refused message.
        """
        self._check_hello(seat, hello)
        await self._check_incarnation(seat, hello.incarnation)
        self._check_proof(seat, hello, sender)
        correspondent = self._correspondents.get(seat)
        if correspondent is None or correspondent.incarnation != hello.incarnation:
            correspondent = self._correspondents[seat] = self._meet(seat, hello.incarnation)
        correspondent.check_welcome()
        if older := self._pairs.get(seat):
            older.outbox.close(UnreachableError("a newer stream has taken its place"))
        pair = self._pairs[seat] = Pair(correspondent, self._boundary)
        if seat[0] == self._here[0] + 1:
            pair.dropping = True
            self._inbox.put(Ready(layer=seat[0], sender=seat[1]))
        return pair

    def _meet(self, seat: Seat, incarnation: int) -> Correspondent:
        boundary = self._boundary
        arrivals = Arrivals(self._inbox, boundary.slots, boundary.capacity)
        return Correspondent(seat, incarnation, arrivals, boundary.unanswered, time.monotonic)

    def _check_hello(self, seat: Seat, hello: BoundaryMessage) -> None:
        if hello.run != self._lease.run:
            raise RefusedError("this is a slave of another run")
        if (hello.layer, hello.replica) != self._here:
            raise RefusedError(
                f"layer {hello.layer} replica {hello.replica} is not here: this is layer {self._here[0]} "
                f"replica {self._here[1]}"
            )
        if hello.sender != seat[1]:
            raise RefusedError(f"replica {hello.sender} of layer {seat[0]} answers for replica {seat[1]}")

    async def _check_incarnation(self, seat: Seat, claimed: int) -> None:
        """Hold a claim against the master's word: in `light` the relay has checked the lease before.

        Raises:
            RefusedError: the master has not granted such a lease.
            FencedError: the lease has passed to a successor.
        """
        if self._server is not None:
            named = await self._neighbours.confirm(seat, claimed)
            if claimed > named:
                raise RefusedError(
                    f"the master has not granted incarnation {claimed} of layer {seat[0]} replica {seat[1]}; "
                    f"the newest is {named}"
                )
        last = self._correspondents.get(seat)
        newest = max(last.incarnation if last else 0, self._neighbours.incarnation(seat))
        if claimed < newest:
            raise _fenced(claimed, newest)

    def _check_proof(self, seat: Seat, hello: BoundaryMessage, sender: str) -> None:
        """Check that a neighbour knows the secret of the pair: in `light` the relay knows the neighbour.

        With certificates the hello also has to come from the neighbour itself.

        Raises:
            UnprovenError: the proof is wrong, or missing.
        """
        peer = self._neighbours.at(seat)
        if self._server is None:
            return
        if not (peer and is_proven_hello(hello, peer.secret, Ends(sender, self._server.holder))):
            raise UnprovenError(
                f"incarnation {hello.incarnation} of layer {seat[0]} replica {seat[1]} has not shown to "
                "know the secret of the pair"
            )

    def _take(self, pair: Pair, encoded: Buffer) -> None:
        """Take a message of a neighbour, or refuse the message and the neighbour's next streams for a while.

        Raises:
            MalformedError: the message cannot be used.
        """
        try:
            decoded = decode_boundary(encoded)
            check_message(decoded, pair.seat, pair.incarnation, self._here)
            if decoded.kind is BoundaryKind.REFUSED:
                self._reason = decoded.reason
                self._accused.set()
                return
            message = from_wire(decoded)
            self.admit(message)
            pair.receive(message)
        except (MalformedError, TooLargeError) as error:
            log.warning("a message of layer %d replica %d was refused: %s", *pair.seat, error)
            pair.correspondent.refuse(str(error))
            self._on_refusal(pair.seat[0])
            raise

    def _forget(self, pair: Pair) -> None:
        """Drop an ended stream, unless a newer stream has the place."""
        pair.outbox.close(UnreachableError("the stream has ended"))
        if self._pairs.get(pair.seat) is pair:
            del self._pairs[pair.seat]


def _fenced(incarnation: int, newest: int) -> FencedError:
    return FencedError(f"incarnation {incarnation} is fenced: its seat is incarnation {newest}'s")
