"""master.relay: delivery by address, refusals, and bounded mailboxes."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import MalformedError
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.payloads import decode_boundary, encode_boundary
from master.relay import SPARE, Address, Mailbox, Relay

UP, DOWN = BoundaryKind.ACTIVATIONS, BoundaryKind.GRADIENTS


def relay() -> Relay:
    """Three layers, with at most 5, 3 and 1 batches out."""
    return Relay([5, 3, 1], [1, 1, 1])


def put(passing: Relay, sender: Address, kind: BoundaryKind, layer: int, batch: int = 0) -> None:
    message = BoundaryMessage(kind, layer, batch=batch)
    passing.put(sender, message, encode_boundary(message))


def taken(mailbox: Mailbox) -> list[BoundaryMessage | None]:
    """Take all messages out, oldest first."""

    async def take() -> list[BoundaryMessage | None]:
        found = [await mailbox.get() for _ in range(len(mailbox) + mailbox.closed)]
        return [None if each is None else decode_boundary(each) for each in found]

    return asyncio.run(take())


def test_messages_arrive_at_their_layer_in_order_on_their_stream() -> None:
    passing = relay()
    up, down = passing.open(Address(2, 0, UP)), passing.open(Address(2, 0, DOWN))
    for batch in range(3):
        put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2, batch)
    put(passing, Address(1, 0, UP), BoundaryKind.END, 2, 3)
    put(passing, Address(3, 0, DOWN), BoundaryKind.GRADIENT, 2, 0)
    put(passing, Address(3, 0, DOWN), BoundaryKind.LOST, 2, 1)
    put(passing, Address(3, 0, DOWN), BoundaryKind.ENDED, 2)
    assert [(m.kind, m.batch) for m in taken(up) if m] == [
        *((BoundaryKind.ACTIVATION, batch) for batch in range(3)),
        (BoundaryKind.END, 3),
    ]
    assert [m.kind for m in taken(down) if m] == [
        BoundaryKind.GRADIENT, BoundaryKind.LOST, BoundaryKind.ENDED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "kind", "layer"),
    [
        (UP, BoundaryKind.ACTIVATION, 1),
        (UP, BoundaryKind.ACTIVATION, 2),
        (UP, BoundaryKind.ACTIVATION, 4),
        (UP, BoundaryKind.GRADIENT, 1),
        (UP, BoundaryKind.LOST, 1),
        (DOWN, BoundaryKind.GRADIENT, 3),
        (DOWN, BoundaryKind.ACTIVATION, 3),
        (DOWN, BoundaryKind.END, 3),
        (UP, BoundaryKind.PEER, 3),
        (DOWN, BoundaryKind.PEER, 1),
        (UP, BoundaryKind.ACTIVATIONS, 3),
        (UP, BoundaryKind.BOUNDARY_KIND_UNSPECIFIED, 3),
    ],
)
def test_what_does_not_travel_from_layer_two_that_way_is_malformed(
    stream: BoundaryKind, kind: BoundaryKind, layer: int
) -> None:
    passing = relay()
    boxes = [passing.open(Address(k, 0, s)) for k in (1, 2, 3) for s in (UP, DOWN)]
    with pytest.raises(MalformedError, match=f"layer 2 sent {kind.name} to layer {layer}"):
        put(passing, Address(2, 0, stream), kind, layer)
    assert not any(len(box) for box in boxes)


def test_what_is_for_nobody_is_dropped_and_counted() -> None:
    passing = relay()
    put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2)
    assert (passing.dropped, passing.depth(2, 0)) == (1, 0)


def test_a_full_mailbox_is_closed_and_its_senders_are_not_blamed() -> None:
    passing = relay()
    mailbox = passing.open(Address(2, 0, UP))
    capacity = 2 * 5 + SPARE
    for batch in range(capacity):
        put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2, batch)
    assert not mailbox.closed
    put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2, capacity)
    assert mailbox.closed
    assert len(taken(mailbox)) == capacity + 1


def test_where_messages_may_be_lost_a_newer_batch_takes_the_slot_of_an_older_and_nothing_is_closed() -> None:
    passing = Relay([3, 3, 3], [1, 1, 1], slots=3)
    mailbox = passing.open(Address(2, 0, UP))
    for batch in (0, 1, 2, 4, 3, 40):
        put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2, batch)
    put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2, 1)
    passing.announce(Address(3, 0, UP))
    assert not mailbox.closed
    assert [(m.kind.name, m.batch) for m in taken(mailbox) if m] == [
        ("ACTIVATION", 2), ("ACTIVATION", 3), ("ACTIVATION", 40), ("PEER", 0),
    ]  # fmt: skip


def test_a_window_sent_twice_fits_for_every_layer() -> None:
    passing = relay()
    for k, window in ((1, 5), (2, 3)):
        passing.open(Address(k + 1, 0, UP))
        for _ in range(2):
            for batch in range(window):
                put(passing, Address(k, 0, UP), BoundaryKind.ACTIVATION, k + 1, batch)
        put(passing, Address(k, 0, UP), BoundaryKind.END, k + 1)


def test_a_newer_stream_of_an_address_closes_the_older_and_takes_its_messages() -> None:
    passing = relay()
    older = passing.open(Address(2, 0, UP))
    newer = passing.open(Address(2, 0, UP))
    put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2)
    assert older.closed
    assert taken(older) == [None]
    assert len(newer) == 1
    # The older stream's own end, which comes later, leaves the newer one alone.
    passing.close(Address(2, 0, UP), older)
    put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2)
    assert len(newer) == 2


def test_a_seat_that_is_vacated_loses_both_streams() -> None:
    passing = relay()
    mine = [passing.open(Address(2, 0, stream)) for stream in (UP, DOWN)]
    other = passing.open(Address(3, 0, UP))
    passing.vacate(2, 0)
    passing.vacate(2, 0)
    assert [box.closed for box in mine] == [True, True]
    assert not other.closed
    put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2)
    assert passing.dropped == 1


def test_a_layer_that_opens_is_announced_to_the_layer_below_alone() -> None:
    passing = relay()
    boxes = {(k, s): passing.open(Address(k, 0, s)) for k in (1, 2, 3) for s in (UP, DOWN)}
    passing.announce(Address(3, 0, BoundaryKind.ACTIVATIONS))
    assert {at for at, box in boxes.items() if len(box)} == {(2, UP)}
    assert [(m.kind, m.layer) for m in taken(boxes[2, UP]) if m] == [(BoundaryKind.PEER, 3)]


def test_an_announcement_to_a_full_mailbox_closes_that_one_and_harms_nobody_else() -> None:
    passing = relay()
    full = passing.open(Address(2, 0, UP))
    for batch in range(2 * 5 + SPARE):
        put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2, batch)
    passing.announce(Address(3, 0, BoundaryKind.ACTIVATIONS))
    assert full.closed
    assert taken(full)[-1] is None
    put(passing, Address(1, 0, UP), BoundaryKind.ACTIVATION, 2)
    assert passing.dropped == 1


def test_announcements_alone_do_not_grow_without_bound() -> None:
    passing = relay()
    passing.open(Address(2, 0, UP))
    for _ in range(1000):
        passing.announce(Address(3, 0, BoundaryKind.ACTIVATIONS))
    assert passing.depth(2, 0) <= 2 * 5 + SPARE
