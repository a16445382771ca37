"""Holders of the neighbouring seats, from the master's answers to heartbeats."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from common.net.data.pairs import Seat
from common.wire.messages import Peer

log = logging.getLogger("layerwise.slave")

# A stream whose incarnation the master has not named waits so long for the next heartbeat.
CONFIRM_SECONDS = 10.0


class Neighbours:
    """Holders of the neighbouring seats that the master last named; on the event loop's thread.

    Args:
        ask: asks the master again, soon.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self.version = 0
        self._ask = ask
        self._missing: set[Seat] = set()
        self._peers: dict[Seat, Peer] = {}
        self._changed = asyncio.Event()
        # Set by the next answer of the master, with news or without.
        self._answered = asyncio.Event()
        self._answered_at = -math.inf

    def answered_since(self, moment: float) -> bool:
        """Whether the master has answered since a moment of the loop's time."""
        return self._answered_at >= moment

    @property
    def wanted(self) -> bool:
        """Whether a neighbour is out of reach, and news of the seat are awaited."""
        return bool(self._missing)

    def learn(self, version: int, peers: list[Peer]) -> None:
        """Take the master's list of holders, and the version of the list."""
        self._answered.set()
        self._answered = asyncio.Event()
        self._answered_at = asyncio.get_running_loop().time()
        if version == self.version:
            return
        self.version = version
        self._peers = {(peer.layer, peer.replica): peer for peer in peers}
        self._changed.set()
        self._changed = asyncio.Event()

    def incarnation(self, seat: Seat) -> int:
        """Return the incarnation that holds a seat by the master's word; 0 without a holder."""
        peer = self._peers.get(seat)
        return peer.incarnation if peer else 0

    async def confirm(self, seat: Seat, claimed: int) -> int:
        """Return the incarnation that holds a seat, after the master was asked about a newer claim.

        An answer under way may be older than the claim: the second answer decides.
        """
        answers, awaited = 0, seat in self._missing
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                while claimed > self.incarnation(seat) and answers < 2:
                    self.miss(seat)
                    await self._answered.wait()
                    answers += 1
        except TimeoutError:
            log.debug("the master did not confirm incarnation %d of layer %d replica %d", claimed, *seat)
        finally:
            if not awaited:
                self.meet(seat)
        return self.incarnation(seat)

    def at(self, seat: Seat) -> Peer | None:
        """Return the holder of a seat; None without a holder."""
        return self._peers.get(seat)

    async def change(self) -> None:
        """Wait for a new list of the master."""
        await self._changed.wait()

    def miss(self, seat: Seat) -> None:
        """Note that a neighbour is out of reach, and ask the master for news."""
        if seat not in self._missing:
            self._missing.add(seat)
            self._ask()

    def doubt(self) -> None:
        """Ask the master for the whole list: it makes no new version where a seat has become vacant."""
        self.version = 0
        self._ask()

    def meet(self, seat: Seat) -> None:
        """Note that a neighbour is within reach."""
        self._missing.discard(seat)
