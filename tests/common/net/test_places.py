"""common.net.data.places: newcomers displace the oldest, and lease holders have places of their own."""

from __future__ import annotations

import random
import sys

import pytest

from common.net.data.places import Bounds, Places, neighbourhood

BOUNDS = Bounds(holders=4, holder=2, strangers=6, address=4)


def test_an_address_beyond_its_bound_loses_its_own_oldest() -> None:
    places: Places[int] = Places(BOUNDS)
    assert [places.enter(guest, "a") for guest in range(6)] == [None, None, None, None, 0, 1]


def test_beyond_the_bound_of_all_the_most_crowded_address_loses_its_oldest() -> None:
    places: Places[int] = Places(BOUNDS)
    for guest in range(4):
        places.enter(guest, "crowd")
    assert [places.enter(guest, f"other {guest}") for guest in range(4, 8)] == [None, None, 0, 1]


def test_a_stranger_that_shows_a_lease_is_displaced_by_no_stranger() -> None:
    places: Places[int] = Places(BOUNDS)
    places.enter(0, "a")
    assert places.promote(0, 7) is None
    displaced = [places.enter(guest, "a") for guest in range(1, 100)]
    assert 0 not in displaced


def test_a_lease_beyond_its_bound_loses_its_own_oldest_and_no_other_lease_any() -> None:
    places: Places[int] = Places(BOUNDS)
    for guest in range(4):
        places.enter(guest, "a")
    assert [places.promote(guest, 7 if guest else 8) for guest in range(4)] == [None, None, None, 1]


def test_without_a_free_place_for_holders_a_guest_remains_a_stranger() -> None:
    places: Places[int] = Places(BOUNDS)
    for guest in range(5):
        places.enter(guest, f"{guest}")
        places.promote(guest, guest // 2)
    assert [places.enter(guest, "4") for guest in (10, 11, 12, 13)] == [None, None, None, 4]


def test_a_guest_that_was_sent_away_is_promoted_no_more() -> None:
    places: Places[int] = Places(Bounds(4, 2, 6, 1))
    places.enter(0, "a")
    assert places.enter(1, "a") == 0
    assert places.promote(0, 7) is None
    places.enter(2, "b")
    assert [places.promote(guest, 7) for guest in (1, 2)] == [None, None]


def test_the_bounds_hold_whatever_comes() -> None:
    rng, places = random.Random(3), Places[int](BOUNDS)
    strangers: set[int] = set()
    holders: dict[int, int] = {}
    for guest in range(2000):
        for gone in (places.enter(guest, f"{rng.randrange(3)}"),):
            strangers = (strangers | {guest}) - {gone}
        if rng.random() < 0.3:
            shown, lease = rng.choice(sorted(strangers)), rng.randrange(3)
            gone = places.promote(shown, lease)
            holders.pop(gone, None) if gone is not None else None
            if shown not in {each for group in places._strangers.values() for each in group}:
                strangers.discard(shown)
                holders[shown] = lease
        if rng.random() < 0.3 and (left := rng.choice([*strangers, *holders])) is not None:
            places.leave(left)
            strangers.discard(left)
            holders.pop(left, None)
        assert len(strangers) <= BOUNDS.strangers
        assert len(holders) <= BOUNDS.holders
        assert all([*holders.values()].count(lease) <= BOUNDS.holder for lease in holders.values())


@pytest.mark.parametrize(
    ("files", "strangers", "address"), [(sys.maxsize, 1024, 256), (1024, 256, 64), (3, 1, 1)]
)
def test_strangers_leave_most_files_to_others(files: int, strangers: int, address: int) -> None:
    assert Bounds().within(files) == Bounds(strangers=strangers, address=address)


def test_many_leases_have_places_for_their_connections_and_for_as_many_successors() -> None:
    assert Bounds.for_leases(3, 4, 8) == Bounds(holder=8)
    assert Bounds.for_leases(1000, 4) == Bounds(holders=8000)


@pytest.mark.parametrize(
    ("address", "machine"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_one_machine_has_one_neighbourhood(address: str, machine: str) -> None:
    assert neighbourhood(address) == machine
