"""Who is where in the neighbouring layers: what the master says with its heartbeats' answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.wire.messages import Peer

# (layer, replica).
Seat = tuple[int, int]


class Neighbours:
    """Who holds the seats of the neighbouring layers, as the master last said; on the event loop's thread.

    Args:
        ask: has the master asked anew, soon.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self.version = 0
        self._ask = ask
        self._missing: set[Seat] = set()
        self._peers: dict[Seat, Peer] = {}
        self._changed = asyncio.Event()

    @property
    def wanted(self) -> bool:
        """Whether some neighbour is out of reach: news of it is awaited."""
        return bool(self._missing)

    def learn(self, version: int, peers: list[Peer]) -> None:
        """What the master said."""
        if version == self.version:
            return
        self.version = version
        self._peers = {(peer.layer, peer.replica): peer for peer in peers}
        self._changed.set()
        self._changed = asyncio.Event()

    def at(self, seat: Seat) -> Peer | None:
        """Who holds a seat, where the master knows one."""
        return self._peers.get(seat)

    async def change(self) -> None:
        """Wait until the master has said something new."""
        await self._changed.wait()

    def miss(self, seat: Seat) -> None:
        """That neighbour is out of reach."""
        if seat not in self._missing:
            self._missing.add(seat)
            self._ask()

    def meet(self, seat: Seat) -> None:
        """It is within reach."""
        self._missing.discard(seat)
