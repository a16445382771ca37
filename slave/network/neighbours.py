"""Holders of the neighbouring seats, from the master's answers to heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.net.data.pairs import Seat
from common.wire.messages import Peer


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

    @property
    def wanted(self) -> bool:
        """Whether a neighbour is out of reach, and news of the seat are awaited."""
        return bool(self._missing)

    def learn(self, version: int, peers: list[Peer]) -> None:
        """Take the master's list of holders, and the version of the list."""
        if version == self.version:
            return
        self.version = version
        self._peers = {(peer.layer, peer.replica): peer for peer in peers}
        self._changed.set()
        self._changed = asyncio.Event()

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

    def meet(self, seat: Seat) -> None:
        """Note that a neighbour is within reach."""
        self._missing.discard(seat)
