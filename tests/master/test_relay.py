"""master.relay: pairs open when both calls are there, messages keep to their stream, and nothing piles up."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FencedError, LayerwiseError, MalformedError, RefusedError, UnreachableError
from common.net.data.pairs import SPARE
from common.wire.messages import BoundaryKind, BoundaryMessage
from common.wire.payloads import decode_boundary, encode_boundary
from master.relay import Line, Relay

RUN = "this run"
UP, DOWN = BoundaryKind.ACTIVATION, BoundaryKind.GRADIENT


@dataclass
class Seat:
    layer: int
    replica: int


class Leases:
    """Incarnation 10 k + r holds layer k replica r, but for those that have ended."""

    def __init__(self) -> None:
        self.ended: set[int] = set()

    def __call__(self, incarnation: int) -> Seat:
        if incarnation in self.ended:
            raise FencedError("ended")
        return Seat(incarnation // 10 % 10, incarnation % 10)


def relay(slots: int | None = None, replicas: tuple[int, ...] = (1, 1, 1)) -> Relay:
    """Three layers, with at most 5, 3 and 1 batches out."""
    return Relay(RUN, lambda: replicas, [5, 3, 1], slots, Leases(), lambda **_: None)


def hello(caller: tuple[int, int], called: tuple[int, int], run: str = RUN) -> BoundaryMessage:
    incarnation = 10 * caller[0] + caller[1]
    return BoundaryMessage(
        BoundaryKind.PAIR, *called, incarnation=incarnation, sender=caller[1], run=run
    )  # fmt: skip


def call(passing: Relay, caller: int, called: int) -> Line:
    return passing.attach(hello((caller, 0), (called, 0)))


def joined(passing: Relay, lower: int = 1) -> tuple[Line, Line]:
    """Both calls of a pair, which have taken the hellos."""
    below, above = call(passing, lower, lower + 1), call(passing, lower + 1, lower)
    assert [(m.kind, m.incarnation) for m in taken(below)] == [(BoundaryKind.PAIR, 10 * (lower + 1))]
    assert [(m.kind, m.incarnation) for m in taken(above)] == [(BoundaryKind.PAIR, 10 * lower)]
    return below, above


def put(passing: Relay, line: Line, kind: BoundaryKind, batch: int = 0, layer: int | None = None) -> None:
    to = line.neighbour[0] if layer is None else layer
    message = BoundaryMessage(
        kind, to, line.neighbour[1], batch, line.incarnation, sender=line.seat[1]
    )  # fmt: skip
    passing.forward(line, encode_boundary(message))


def taken(line: Line) -> list[BoundaryMessage]:
    """Every message that waits, oldest first."""

    async def take() -> list[BoundaryMessage]:
        parts = [await line.outbox.get() for _ in range(len(line.outbox))]
        return [decode_boundary(b"".join(each)) for each in parts if each is not None]

    return asyncio.run(take())


def test_messages_arrive_in_order_each_way() -> None:
    passing = relay()
    below, above = joined(passing)
    for batch in range(3):
        put(passing, below, UP, batch)
    put(passing, below, BoundaryKind.END, 3)
    for kind in (DOWN, BoundaryKind.LOST, BoundaryKind.TAKEN, BoundaryKind.ENDED):
        put(passing, above, kind)
    assert [(m.kind, m.batch) for m in taken(above)] == [
        *((UP, batch) for batch in range(3)),
        (BoundaryKind.END, 3),
    ]
    assert [m.kind for m in taken(below)] == [
        DOWN, BoundaryKind.LOST, BoundaryKind.TAKEN, BoundaryKind.ENDED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("upwards", "kind", "layer"),
    [
        (True, BoundaryKind.ACTIVATION, 1),
        (True, BoundaryKind.ACTIVATION, 2),
        (True, BoundaryKind.ACTIVATION, 4),
        (True, BoundaryKind.GRADIENT, 3),
        (True, BoundaryKind.LOST, 3),
        (True, BoundaryKind.PEER, 3),
        (True, BoundaryKind.PAIR, 3),
        (True, BoundaryKind.BOUNDARY_KIND_UNSPECIFIED, 3),
        (False, BoundaryKind.GRADIENT, 3),
        (False, BoundaryKind.ACTIVATION, 1),
        (False, BoundaryKind.END, 1),
        (False, BoundaryKind.PEER, 1),
    ],
)
def test_a_message_that_does_not_belong_on_its_stream_is_malformed(
    upwards: bool, kind: BoundaryKind, layer: int
) -> None:
    passing = relay()
    lines = [*joined(passing, 1), *joined(passing, 2)]
    with pytest.raises(MalformedError, match=f"layer 2 sent {kind.name} to layer {layer}"):
        put(passing, lines[2 if upwards else 1], kind, layer=layer)
    assert not any(len(line.outbox) for line in lines)


def test_a_message_of_another_replica_or_incarnation_is_malformed() -> None:
    passing = relay()
    below, above = joined(passing)
    for changed in (
        BoundaryMessage(UP, 2, 0, 0, 10, sender=1),
        BoundaryMessage(UP, 2, 1, 0, 10),
        BoundaryMessage(UP, 2, 0, 0, 11),
    ):
        with pytest.raises(MalformedError):
            passing.forward(below, encode_boundary(changed))
    assert not len(above.outbox)


@pytest.mark.parametrize(
    ("caller", "called", "run", "error"),
    [
        ((1, 0), (2, 0), "another", RefusedError),
        ((1, 0), (3, 0), RUN, MalformedError),
        ((1, 0), (1, 0), RUN, MalformedError),
        ((1, 0), (0, 0), RUN, MalformedError),
        ((3, 0), (4, 0), RUN, MalformedError),
        ((1, 0), (2, 1), RUN, MalformedError),
        ((1, 1), (2, 0), RUN, MalformedError),
    ],
)  # fmt: skip
def test_a_call_that_makes_no_pair_is_refused(
    caller: tuple[int, int], called: tuple[int, int], run: str, error: type[LayerwiseError]
) -> None:
    passing = relay(replicas=(2, 2, 1))
    with pytest.raises(error):
        passing.attach(hello(caller, called, run))


def test_layer_k_has_a_stream_to_a_far_layer_where_it_broadcasts_and_sends_nothing_else_there() -> None:
    passing = Relay(
        RUN, lambda: [1, 1, 1, 1], [5, 3, 1, 1], None, Leases(), lambda **_: None, broadcasts=True
    )
    below, above = call(passing, 1, 4), call(passing, 4, 1)
    assert [m.incarnation for m in (*taken(below), *taken(above))] == [40, 10]
    put(passing, above, BoundaryKind.OUTPUT_GRADIENT, 7)
    assert [(m.kind, m.batch) for m in taken(below)] == [(BoundaryKind.OUTPUT_GRADIENT, 7)]
    for line, kind in ((above, DOWN), (above, BoundaryKind.LOST), (below, UP), (below, BoundaryKind.END)):
        with pytest.raises(MalformedError, match=f"sent {kind.name} to layer"):
            put(passing, line, kind)
    with pytest.raises(MalformedError, match="share no batch"):
        call(passing, 1, 3)


def test_a_call_under_another_replicas_name_is_refused() -> None:
    wrong = BoundaryMessage(BoundaryKind.PAIR, 2, 0, incarnation=10, sender=1, run=RUN)
    with pytest.raises(MalformedError, match="as replica 1"):
        relay(replicas=(2, 1, 1)).attach(wrong)


def test_a_message_for_an_absent_neighbour_is_dropped_and_counted() -> None:
    passing = relay()
    put(passing, call(passing, 1, 2), UP)
    assert (passing.dropped, passing.depth(2, 0)) == (1, 0)


def test_a_neighbour_that_does_not_keep_up_is_closed_and_its_pair_with_it_and_no_other() -> None:
    passing = relay()
    below, above = joined(passing)
    others = joined(passing, 2)
    for batch in range(2 * 5 + SPARE):
        put(passing, below, UP, batch)
    assert not above.outbox.closed
    put(passing, below, UP, 99)
    assert above.outbox.closed
    assert below.outbox.closed
    assert isinstance(above.outbox.error, UnreachableError)
    assert not any(line.outbox.closed for line in others)
    assert passing.depth(2, 0) == 0


def test_where_messages_may_be_lost_a_newer_batch_takes_the_slot_of_an_older_and_nothing_is_closed() -> None:
    passing = relay(slots=3)
    below, above = joined(passing)
    for batch in (0, 1, 2, 4, 3, 40):
        put(passing, below, UP, batch)
    put(passing, below, UP, 1)
    put(passing, below, BoundaryKind.END, 41)
    assert not above.outbox.closed
    assert [(m.kind.name, m.batch) for m in taken(above)] == [
        ("ACTIVATION", 2), ("ACTIVATION", 3), ("ACTIVATION", 40), ("END", 41),
    ]  # fmt: skip


def test_a_window_sent_twice_fits_for_every_layer() -> None:
    passing = relay()
    for k, window in ((1, 5), (2, 3)):
        below, above = joined(passing, k)
        for _ in range(2):
            for batch in range(window):
                put(passing, below, UP, batch)
        put(passing, below, BoundaryKind.END)
        assert not above.outbox.closed


def test_a_newer_call_closes_the_older_pair_and_waits_for_the_neighbour_to_call_again() -> None:
    passing = relay()
    below, above = joined(passing)
    newer = call(passing, 1, 2)
    assert below.outbox.closed
    assert above.outbox.closed
    # The older call's own end, which comes later, leaves the newer one alone.
    passing.detach(below)
    put(passing, newer, UP)
    assert passing.dropped == 1
    again = call(passing, 2, 1)
    assert [m.kind for m in taken(newer)] == [m.kind for m in taken(again)] == [BoundaryKind.PAIR]
    put(passing, newer, UP, 7)
    assert [m.batch for m in taken(again)] == [7]


def test_the_end_of_one_call_ends_the_neighbours_so_that_both_call_again() -> None:
    passing = relay()
    below, above = joined(passing)
    passing.detach(above, MalformedError("wrong"))
    assert isinstance(above.outbox.error, MalformedError)
    assert isinstance(below.outbox.error, UnreachableError)
    joined(passing)


def test_a_seat_that_is_vacated_loses_its_calls_and_a_fenced_slave_gets_none() -> None:
    passing = relay()
    below, middle = joined(passing)
    other = call(passing, 3, 2)
    passing.vacate(2, 0)
    passing.vacate(2, 0)
    assert [line.outbox.closed for line in (below, middle, other)] == [True, True, False]
    leases = passing._seat
    assert isinstance(leases, Leases)
    leases.ended.add(20)
    with pytest.raises(FencedError):
        call(passing, 2, 1)


def test_calls_alone_do_not_grow_without_bound() -> None:
    passing = relay()
    for _ in range(1000):
        call(passing, 1, 2)
        call(passing, 2, 1)
    assert len(passing._lines) <= 2
    assert passing.depth(1, 0) <= 1


@given(st.lists(st.tuples(st.sampled_from([(1, 2), (2, 1), (2, 3), (3, 2)]), st.sampled_from("cdm"))))
def test_whatever_happens_calls_are_joined_in_pairs(steps: list[tuple[tuple[int, int], str]]) -> None:
    """Calls, ends and messages in any order: open calls of a pair know each other, and closed ones nobody."""
    passing = relay()
    lines: list[Line] = []
    for (caller, called), step in steps:
        known = passing._lines.get(((caller, 0), (called, 0)))
        if step == "c":
            lines.append(call(passing, caller, called))
        elif known is not None and step == "d":
            passing.detach(known)
        elif known is not None:
            put(passing, known, UP if caller < called else DOWN)
    kept = [*passing._lines.values()]
    assert Counter(map(id, kept)) == Counter(id(line) for line in lines if not line.outbox.closed)
    for line in kept:
        opposite = passing._lines.get((line.neighbour, line.seat))
        assert line.peer is opposite
    assert all(line.peer is None for line in lines if line.outbox.closed)
