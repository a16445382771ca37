"""Places of a data port: strangers share some, each lease has others."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

Guest = TypeVar("Guest", bound=Hashable)
Key = TypeVar("Key", bound=Hashable)
_Groups = dict[Key, dict[Guest, None]]

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

    @classmethod
    def for_leases(cls, leases: int, usual: int, holder: int = 64) -> Bounds:
        """Return bounds with places for `usual` connections of each lease, and of as many successors.

        Args:
            leases: of the run, at a time.
            usual: connections of a lease.
            holder: upper bound of one lease.
        """
        return cls(holders=max(cls.holders, 2 * leases * usual), holder=holder)

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
        self._strangers: _Groups[str, Guest] = {}
        self._holders: _Groups[int, Guest] = {}
        # Groups and key of every guest.
        self._places: dict[Guest, tuple[_Groups[Any, Guest], Hashable]] = {}

    def enter(self, guest: Guest, address: str) -> Guest | None:
        """Give a stranger a place; returns the stranger that must leave, if any.

        Beyond the bound of an address its oldest guest leaves, and beyond the bound of all the oldest of
        the address with the most.
        """
        own = self._strangers.get(address, {})
        oldest = None
        if len(own) >= self._bounds.address:
            oldest = next(iter(own))
        elif sum(map(len, self._strangers.values())) >= self._bounds.strangers:
            crowd: dict[Guest, None] = max(self._strangers.values(), key=len)
            oldest = next(iter(crowd))
        self._move(guest, oldest, self._strangers, address)
        return oldest

    def promote(self, guest: Guest, incarnation: int) -> Guest | None:
        """Give a guest that has shown a lease one of its places; returns the guest that must leave, if any.

        Without a free place for lease holders the guest remains a stranger. A guest that has left stays so.
        """
        if guest not in self._places or self._places[guest][0] is not self._strangers:
            return None
        own = self._holders.get(incarnation, {})
        oldest = None
        if len(own) >= self._bounds.holder:
            oldest = next(iter(own))
        elif sum(map(len, self._holders.values())) >= self._bounds.holders:
            return None
        self._move(guest, oldest, self._holders, incarnation)
        return oldest

    def leave(self, guest: Guest) -> None:
        """Give a guest's place back."""
        if guest in self._places:
            groups, key = self._places.pop(guest)
            del groups[key][guest]
            if not groups[key]:
                del groups[key]

    def _move(self, guest: Guest, oldest: Guest | None, groups: _Groups[Key, Guest], key: Key) -> None:
        """Move a guest into a group, as the newest, in place of the oldest if given."""
        for each in (guest, oldest):
            if each is not None:
                self.leave(each)
        groups.setdefault(key, {})[guest] = None
        self._places[guest] = groups, key


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
