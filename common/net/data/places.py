"""Places of a data port: strangers share some, each lease has others."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

Guest = TypeVar("Guest", bound=Hashable)

# Address bits of IPv6 that one machine chooses freely.
_OWN_BITS = 64


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of the open connections of a port.

    Attributes:
        holders: of all lease holders together.
        holder: of one lease.
        strangers: of all callers that have shown no lease.
        address: of the callers among these from one address.
    """

    holders: int = 2048
    holder: int = 64
    strangers: int = 1024
    address: int = 256

    def within(self, files: int) -> Bounds:
        """Return bounds by which strangers take a quarter of a process's files, one address a sixteenth."""
        return replace(
            self,
            strangers=max(1, min(self.strangers, files // 4)),
            address=max(1, min(self.address, files // 16)),
        )


class Places(Generic[Guest]):
    """Connections by the bound that each counts for; a newcomer takes the place of the oldest.

    A stranger's place is worth little: an honest slave needs one between connecting and showing
    the lease, and finds one although others hold as many as they may.

    Args:
        bounds: of the port.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        # Guests by address and by incarnation, oldest first.
        self._strangers: dict[str, dict[Guest, None]] = {}
        self._holders: dict[int, dict[Guest, None]] = {}

    def enter(self, guest: Guest, address: str) -> Guest | None:
        """Give a stranger a place; returns the stranger that must leave, if any.

        Beyond the bound of an address its oldest guest leaves, and beyond the bound of all the oldest of
        the address with the most.
        """
        own = self._strangers.setdefault(address, {})
        oldest = None
        if len(own) >= self._bounds.address:
            oldest = _pop_oldest(own)
        elif sum(map(len, self._strangers.values())) >= self._bounds.strangers:
            crowd = max(self._strangers, key=lambda each: len(self._strangers[each]))
            oldest = _pop_oldest(self._strangers[crowd])
            if not self._strangers[crowd] and crowd != address:
                del self._strangers[crowd]
        own[guest] = None
        return oldest

    def promote(self, guest: Guest, incarnation: int) -> Guest | None:
        """Give a guest that has shown a lease one of its places; returns the guest that must leave, if any.

        Without a free place for lease holders the guest remains a stranger. A guest that has left stays so.
        """
        if guest in self._holders.get(incarnation, ()) or not self._is_stranger(guest):
            return None
        own = self._holders.get(incarnation, {})
        oldest = None
        if len(own) >= self._bounds.holder:
            oldest = _pop_oldest(own)
        elif sum(map(len, self._holders.values())) >= self._bounds.holders:
            return None
        self.leave(guest)
        self._holders.setdefault(incarnation, own)[guest] = None
        return oldest

    def leave(self, guest: Guest) -> None:
        """Give a guest's place back."""
        _discard(self._strangers, guest)
        _discard(self._holders, guest)

    def _is_stranger(self, guest: Guest) -> bool:
        return any(guest in each for each in self._strangers.values())


Key = TypeVar("Key")


def _pop_oldest(group: dict[Guest, None]) -> Guest:
    oldest = next(iter(group))
    del group[oldest]
    return oldest


def _discard(groups: dict[Key, dict[Guest, None]], guest: Guest) -> None:
    for key, group in list(groups.items()):
        if guest in group:
            del group[guest]
        if not group:
            del groups[key]


def neighbourhood(address: str) -> str:
    """Return the part of an address that stands for one machine: of IPv6 the network."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(found) >> _OWN_BITS << _OWN_BITS, _OWN_BITS)))
        found = found.ipv4_mapped
    return str(found)
