"""Profiles of a cluster: the calls of a slave for neighbours."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from common.credentials import NOBODY, Credentials
from common.errors import LayerwiseError, MalformedError, RefusedError, UnreachableError
from common.net.addresses import advice, split_address
from common.net.backoff import Backoff
from common.net.data.pairs import Seat
from common.net.http2.tls import Tls
from common.wire.messages import Peer
from slave.network.neighbours import Neighbours

log = logging.getLogger("layerwise.slave")

# Seconds between two calls of a neighbour, doubling from the first to the last: the neighbour may be
# starting.
FIRST_DELAY, LONGEST_DELAY = 0.05, 0.5
# A neighbour may be starting for so long, and a master without an answer for longer is away.
UNTOLD_SECONDS, AWAY_SECONDS = 5.0, 10.0


class Dialer(Protocol):
    """Rule of a profile, on the event loop: the neighbours to call, the addresses, the pauses between calls.

    Attributes:
        seats: the neighbours to call; the others call.
        shown: credentials for the one who is called.
        tls: certificates, and the role of the one who is called; None: in the clear.
    """

    seats: tuple[Seat, ...]
    shown: Credentials
    tls: Tls | None

    async def locate(self, seat: Seat) -> tuple[str, int] | None:
        """Return the host and port to call for a neighbour; None while unknown.

        Raises:
            LayerwiseError: the master gives no address.
        """

    async def replaced(self, seat: Seat) -> None:
        """Wait until the last call for a neighbour is of no more use."""

    def reached(self, seat: Seat) -> None:
        """Note that a call for a neighbour was answered."""

    def met(self, seat: Seat) -> None:
        """Note that the pair with a neighbour is open."""

    async def pause(self, seat: Seat, error: LayerwiseError | None) -> None:
        """Wait until the next call for a neighbour, after the last one ended.

        Raises:
            LayerwiseError: `error`, where the lease cannot go on.
        """


class MasterDialer:
    """Profile `light`: the master stands for every neighbour, and joins the two calls of a pair.

    Args:
        seats: the neighbours.
        locate: returns the master's host and port for streams.
        backoff: makes the delays for one neighbour, with the patience for a master that is away.
        shown: credentials of the lease.
        tls: certificates, and the role of masters; None: in the clear.
    """

    def __init__(
        self,
        seats: Iterable[Seat],
        locate: Callable[[], Awaitable[tuple[str, int]]],
        backoff: Callable[[], Backoff],
        shown: Credentials,
        tls: Tls | None = None,
    ) -> None:
        self.seats = tuple(seats)
        self.shown = shown
        self.tls = tls
        self._locate = locate
        self._backoffs = {seat: backoff() for seat in self.seats}

    async def locate(self, seat: Seat) -> tuple[str, int] | None:  # noqa: ARG002 - the master, for every seat
        """Ask the master for host and port of the data plane, which a restart may change."""
        return await self._locate()

    async def replaced(self, seat: Seat) -> None:  # noqa: ARG002
        """Wait forever: the master ends calls for replaced neighbours."""
        await asyncio.get_running_loop().create_future()

    def reached(self, seat: Seat) -> None:
        """Begin the patience anew: the master has answered. The delays go on growing until a pair opens."""
        self._backoffs[seat].be_patient()

    def met(self, seat: Seat) -> None:
        """Begin the delays anew: the pair is open."""
        self._backoffs[seat].reset()

    async def pause(self, seat: Seat, error: LayerwiseError | None) -> None:
        """Wait for the backoff.

        Raises:
            LayerwiseError: `error`, where the lease has passed on, or the master has been away for too long.
        """
        why = error or UnreachableError("the master closed the stream")
        await asyncio.sleep(self._backoffs[seat].delay_after(why))


@dataclass
class _Stranger:
    """Holder of a seat that has been called.

    Attributes:
        incarnation: of the holder.
        since: the loop's time from which on it has been silent.
        reached: whether a connection to it was ever open.
        doubted: whether the master was asked if it still holds the seat.
        told: whether its silence has been logged.
    """

    incarnation: int
    since: float
    reached: bool = False
    doubted: bool = False
    told: bool = False


class NeighbourDialer:
    """Profile `basic`: a slave calls the slaves of the layer above, at the addresses that the master names.

    Args:
        seats: the neighbours above.
        neighbours: addresses of the holders.
        tls: certificates, and the role of the run's slaves; None: in the clear.
        patience: seconds in which a neighbour whose lease stands must be reached once.
    """

    def __init__(
        self,
        seats: Iterable[Seat],
        neighbours: Neighbours,
        tls: Tls | None = None,
        patience: float = math.inf,
    ) -> None:
        self.seats = tuple(seats)
        self.tls = tls
        # The secret of a lease is for the master alone: a neighbour gets the proof in the hello.
        self.shown = NOBODY
        self._neighbours = neighbours
        self._called: dict[Seat, Peer] = {}
        self._met: set[Seat] = set()
        self._patience = patience
        self._strangers: dict[Seat, _Stranger] = {}
        # Last refusal by seat, logged once.
        self._refusals: dict[Seat, str] = {}
        self._backoffs = {
            seat: Backoff(time.monotonic, random.random, first=FIRST_DELAY, longest=LONGEST_DELAY)
            for seat in self.seats
        }

    async def locate(self, seat: Seat) -> tuple[str, int] | None:
        """Return the master's last address of the seat, and ask for news."""
        self._met.discard(seat)
        self._neighbours.miss(seat)
        peer = self._neighbours.at(seat)
        if peer is None:
            self._strangers.pop(seat, None)
            return None
        self._called[seat] = peer
        last = self._strangers.get(seat)
        if last is None or last.incarnation != peer.incarnation:
            self._strangers[seat] = _Stranger(peer.incarnation, asyncio.get_running_loop().time())
        return split_address(peer.address)

    async def replaced(self, seat: Seat) -> None:
        """Wait until the master names a successor for the seat."""
        while self._neighbours.at(seat) in (self._called[seat], None):
            await self._neighbours.change()
        self._backoffs[seat].reset()

    def reached(self, seat: Seat) -> None:
        """Note that there is a way to the neighbour, which may refuse the call."""
        if stranger := self._strangers.get(seat):
            stranger.reached = True

    def met(self, seat: Seat) -> None:
        """Ask for no more news of the seat."""
        self._met.add(seat)
        self._backoffs[seat].reset()
        self._neighbours.meet(seat)

    async def pause(self, seat: Seat, error: LayerwiseError | None) -> None:
        """Wait for the backoff, or for news of the neighbours.

        The master alone ends leases: wait for a neighbour that refuses the call, as for a dead neighbour.

        Raises:
            MalformedError: the neighbour cannot use this slave's messages.
            RefusedError: the neighbour has a lease, and has been out of reach from the first call on.
        """
        if isinstance(error, MalformedError) and seat in self._met:
            raise error
        if isinstance(error, UnreachableError):
            self._bear_silence(seat, error)
        elif error is not None:
            self._log_refusal(seat, error)
        backoff = self._backoffs[seat]
        try:
            await asyncio.wait_for(self._neighbours.change(), backoff.next_delay())
        except TimeoutError:
            return
        backoff.reset()

    def _bear_silence(self, seat: Seat, error: UnreachableError) -> None:
        """Tell once of a neighbour that was never reached, though its lease stands, and then give up.

        A neighbour that was reached may be behind a broken link, and one whose master is away may be dead.
        """
        stranger = self._strangers.get(seat)
        if stranger is None or stranger.reached:
            return
        now = asyncio.get_running_loop().time()
        if not self._neighbours.answered_since(now - AWAY_SECONDS):
            stranger.since = now
        if (silent := now - stranger.since) < UNTOLD_SECONDS:
            return
        # Each time: the neighbour may die later, and then it has no lease to be reached for.
        self._neighbours.doubt()
        if not stranger.doubted:
            stranger.doubted = True
            return
        host, _ = split_address(self._called[seat].address)
        text = (
            f"layer {seat[0]} replica {seat[1]} at {error}, and never has in {silent:.0f} s; {advice(host)} "
            "With cluster.profile = light slaves dial the master alone"
        )
        if silent > self._patience:
            raise RefusedError(text)
        if not stranger.told:
            stranger.told = True
            log.warning("%s; trying again for %g s", text, self._patience)

    def _log_refusal(self, seat: Seat, error: LayerwiseError) -> None:
        text = f"{self._called[seat].address}: {error}" if seat in self._called else str(error)
        if self._refusals.get(seat) != text:
            self._refusals[seat] = text
            log.warning("layer %d replica %d at %s; trying again", *seat, text)
