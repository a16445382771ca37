"""The profile `basic`: activations and gradients go straight from slave to slave.

For each pair of replicas that share a batch there is one stream: the lower slave opens it to the upper one's
server, at the address that the master names; activations travel up on it, gradients down. As in `light`,
nothing that was under way when a stream broke is kept here: once it is open again, the trainer is told and
sends what is unanswered.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator

from common.errors import FencedError, LayerwiseError, MalformedError, RefusedError, UnreachableError
from common.net.addresses import split_address
from common.net.backoff import Backoff
from common.net.data import streams
from common.net.data.streams import Parts, Stream
from common.net.tasks import cancel, run_until_one_ends
from common.shards.pushes import Buffer
from common.wire.messages import FALLING, RISING, BoundaryKind, BoundaryMessage, JoinReply, Peer
from common.wire.methods import EXCHANGE
from common.wire.payloads import boundary_parts, decode_boundary, encode_boundary
from slave.network.links import Boundary, from_wire, transmit
from slave.network.mail import Arrivals, Inbox, Outgoing
from slave.network.neighbours import Neighbours, Seat
from slave.network.servicer import BoundaryServer
from slave.training.decoupling import Message

log = logging.getLogger("layerwise.slave")

# Between two attempts to reach a neighbour, doubling from the first to the last: it may be starting.
FIRST_DELAY, LONGEST_DELAY = 0.05, 0.5


class Pair:
    """One open stream to a neighbour: what waits to be sent on it, and what came."""

    def __init__(self, peer: Peer, boundary: Boundary, inbox: Inbox) -> None:
        self.seat: Seat = (peer.layer, peer.replica)
        self.incarnation = peer.incarnation
        # Why it was closed on this side.
        self.error: LayerwiseError | None = None
        self.outgoing = Outgoing(boundary.slots, boundary.capacity)
        self._arrivals = Arrivals(inbox, boundary.slots, boundary.capacity)

    def send(self, message: Message, encoded: Parts) -> None:
        """Have a message wait; of a neighbour that does not keep up the stream is closed, as by the relay."""
        if not self.outgoing.put(message, encoded):
            self.close(UnreachableError("too much waits to be sent; open the stream anew"))

    def receive(self, message: Message) -> None:
        """Have one wait for the training thread."""
        if not self._arrivals.put(message):
            self.close(UnreachableError("too much waits to be taken; open the stream anew"))

    def close(self, error: LayerwiseError) -> None:
        """End it, and say why."""
        self.error = self.error or error
        self.outgoing.close()


class BasicLinks:
    """Messages of one lease, from slave to slave.

    Args:
        lease: what the master granted.
        boundary: who is above and below.
        server: this process' own, to which the layer below opens its streams.
        neighbours: where the slaves of the layer above are.
        inbox: takes each `Message` that arrives, and a PEER for each neighbour above that is there (again).
    """

    def __init__(
        self,
        lease: JoinReply,
        boundary: Boundary,
        server: BoundaryServer,
        neighbours: Neighbours,
        inbox: Inbox,
    ) -> None:
        self._lease = lease
        self._boundary = boundary
        self._server = server
        self._neighbours = neighbours
        self._inbox = inbox
        self._pairs: dict[Seat, Pair] = {}
        # Of each seat below the newest incarnation that has opened a stream.
        self._newest: dict[Seat, int] = {}
        # What each seat above last refused us with: it is said once.
        self._refusals: dict[Seat, str] = {}

    def send(self, message: Message, encoded: Parts) -> None:
        """Hand a message over, and its encoding; on the event loop's thread."""
        pair = self._pairs.get((message.layer, message.replica))
        if pair is not None:
            pair.send(message, encoded)

    async def run(self) -> None:
        """Keep a stream open to each neighbour above, and take those of the neighbours below.

        Raises:
            LayerwiseError: a neighbour's messages are not of this run, or ours are not to it.
        """
        work = [self._dial((self._lease.layer + 1, replica)) for replica in self._boundary.receivers]
        tasks = [asyncio.ensure_future(each) for each in (self._fence(), *work)]
        self._server.links = self
        try:
            await asyncio.gather(*tasks)
        finally:
            self._server.links = None
            await cancel(tasks)
            for pair in self._pairs.values():
                pair.close(UnreachableError("the lease has ended"))

    # --- upwards: streams that this slave opens

    async def _dial(self, seat: Seat) -> None:
        backoff = Backoff(time.monotonic, random.random, first=FIRST_DELAY, longest=LONGEST_DELAY)
        while True:
            self._neighbours.miss(seat)
            peer = self._neighbours.at(seat)
            # Whether the stream ever opened, once it breaks or another slave has the seat.
            if peer is not None and await run_until_one_ends(self._exchange(peer), self._replaced(peer)):
                backoff.reset()
            try:
                await asyncio.wait_for(self._neighbours.change(), backoff.next_delay())
                backoff.reset()
            except TimeoutError:
                continue

    async def _replaced(self, peer: Peer) -> bool:
        while self._neighbours.at((peer.layer, peer.replica)) in (peer, None):
            await self._neighbours.change()
        return True

    async def _exchange(self, peer: Peer) -> bool:
        """One stream to a neighbour, until it breaks; whether it opened."""
        opened = False
        try:
            async with streams.opened(*split_address(peer.address), EXCHANGE) as call:
                await call.write(encode_boundary(self._hello(peer)))
                if await call.read() is not None:
                    opened = True
                    await self._opened(peer, call)
        except LayerwiseError as error:
            self._failed(peer, error, opened)
        return opened

    def _hello(self, peer: Peer) -> BoundaryMessage:
        lease = self._lease
        return BoundaryMessage(
            BoundaryKind.PAIR,
            peer.layer,
            peer.replica,
            incarnation=lease.incarnation,
            sender=lease.replica,
            run=lease.run,
        )

    async def _opened(self, peer: Peer, call: Stream) -> None:
        pair = self._pairs[peer.layer, peer.replica] = Pair(peer, self._boundary, self._inbox)
        self._neighbours.meet(pair.seat)
        self._inbox.put(Message(BoundaryKind.PEER, peer.layer, 0, sender=peer.replica))
        try:
            await run_until_one_ends(self._receive(pair, call), transmit(call, pair.outgoing))
        finally:
            self._forget(pair)

    async def _receive(self, pair: Pair, call: Stream) -> None:
        while (encoded := await call.read()) is not None:
            message = from_wire(decode_boundary(encoded))
            self._check(message, pair, FALLING)
            pair.receive(message)

    def _failed(self, peer: Peer, error: LayerwiseError, opened: bool) -> None:
        """One that refuses us is waited for, as one that is gone: the master ends leases, and nobody else.

        Raises:
            MalformedError: it cannot use what we sent.
        """
        if opened and isinstance(error, MalformedError):
            raise error
        seat, text = (peer.layer, peer.replica), f"{peer.address}: {error}"
        if not isinstance(error, UnreachableError) and self._refusals.get(seat) != text:
            self._refusals[seat] = text
            log.warning("layer %d replica %d at %s; trying again", *seat, text)

    # --- downwards: streams that the layer below opens

    async def accepted(
        self, hello: BoundaryMessage, requests: AsyncIterator[Buffer]
    ) -> AsyncGenerator[Parts, None]:
        """The answers on a stream that a slave below has opened: its hello, then what is sent to it.

        Raises:
            RefusedError: it is of another run, or looks for another slave.
            FencedError: its lease has passed to another.
            LayerwiseError: why the stream was closed.
        """
        pair = self._admitted(hello)
        reading = asyncio.ensure_future(self._read(pair, requests))
        try:
            yield boundary_parts(hello)
            while (encoded := await pair.outgoing.get()) is not None:
                yield encoded
            if pair.error is not None:
                raise pair.error
        finally:
            reading.cancel()
            self._forget(pair)

    def _admitted(self, hello: BoundaryMessage) -> Pair:
        lease, seat = self._lease, (self._lease.layer - 1, hello.sender)
        if hello.run != lease.run:
            raise RefusedError("this is a slave of another run")
        if (hello.layer, hello.replica) != (lease.layer, lease.replica):
            raise RefusedError(
                f"layer {hello.layer} replica {hello.replica} is not here: this is layer {lease.layer} "
                f"replica {lease.replica}"
            )
        if hello.sender not in self._boundary.senders:
            raise RefusedError(f"replica {hello.sender} of layer {seat[0]} shares no batch with this slave")
        known = self._neighbours.at(seat)
        newest = max(self._newest.get(seat, 0), known.incarnation if known else 0)
        if hello.incarnation < newest:
            raise _fenced(hello.incarnation, newest)
        self._newest[seat] = hello.incarnation
        if seat in self._pairs:
            self._pairs[seat].close(UnreachableError("a newer stream has taken its place"))
        pair = self._pairs[seat] = Pair(Peer(*seat, hello.incarnation), self._boundary, self._inbox)
        return pair

    async def _read(self, pair: Pair, requests: AsyncIterator[Buffer]) -> None:
        """Take what a stream brings, until it ends, is closed or breaks a rule."""
        error: LayerwiseError = UnreachableError("the stream has ended")
        try:
            async for encoded in requests:
                message = from_wire(decode_boundary(encoded))
                self._check(message, pair, RISING)
                if message.incarnation != pair.incarnation:
                    raise MalformedError(f"{message.kind.name} came from incarnation {message.incarnation}")
                if pair.error is not None:
                    return
                pair.receive(message)
        except LayerwiseError as broken:
            error = broken
        finally:
            pair.close(error)

    async def _fence(self) -> None:
        """Close the streams of slaves below whose seats have passed to others."""
        while True:
            await self._neighbours.change()
            for pair in list(self._pairs.values()):
                peer = self._neighbours.at(pair.seat)
                if peer is not None and peer.incarnation > pair.incarnation:
                    pair.close(_fenced(pair.incarnation, peer.incarnation))

    # --- both

    def _check(self, message: Message, pair: Pair, kinds: tuple[BoundaryKind, ...]) -> None:
        here, sender = (self._lease.layer, self._lease.replica), pair.seat[1]
        told = (message.layer, message.replica, message.sender)
        if told != (*here, sender) or message.kind not in kinds:
            raise MalformedError(
                f"{message.kind.name} for layer, replica and from replica {told} came to {here} from replica "
                f"{sender} of layer {pair.seat[0]}"
            )

    def _forget(self, pair: Pair) -> None:
        """The stream is gone, and with it what waited to be sent; unless a newer one has its place."""
        pair.close(UnreachableError("the stream has ended"))
        if self._pairs.get(pair.seat) is pair:
            del self._pairs[pair.seat]


def _fenced(incarnation: int, newest: int) -> FencedError:
    return FencedError(f"incarnation {incarnation} is fenced: its seat is incarnation {newest}'s")
