"""master.roster: leases on seats, under any order of joins, beats, silences, ticks and restarts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import FencedError, MalformedError, UnprovenError, UnreachableError
from common.wire.messages import JoinRequest, Telemetry
from common.wire.telemetry import merge
from master.leases import check_secret
from master.roster import Roster
from tests.master.keys import KEYRING

INTERVAL = 1.0
DONE = Telemetry(done=True)


def roster(replicas: list[int] | None = None, saved: dict[str, Any] | None = None) -> Roster:
    """Roster after the first tick, where two heartbeats may be missed."""
    made = Roster(replicas or [1, 1], INTERVAL, 2, saved, keyring=KEYRING)
    made.tick(0.0)
    return made


def joined(leases: Roster, slave: str, now: float = 0.0) -> int:
    reply, _ = leases.join(JoinRequest(slave), now)
    assert reply.granted
    return reply.incarnation


def restarted(leases: Roster, now: float = 0.0) -> Roster:
    """Restart: restore a roster from a dump, by way of JSON."""
    return Roster([1, 1], INTERVAL, 2, json.loads(json.dumps(leases.dump(now))), keyring=KEYRING)


def ticked(leases: Roster, begin: float, end: float) -> list[tuple[str, int]]:
    """Tick on time until a moment; returns kind and slave of the events."""
    events, now = [], begin
    while now < end:
        now = min(now + leases.tick_seconds, end)
        events += [(event.kind, event.incarnation) for event in leases.tick(now)]
    return events


# --- certificates ------------------------------------------------------------------------------------------


def test_a_lease_is_bound_to_the_certificate_that_took_it() -> None:
    leases = roster()
    request = JoinRequest("a", key="0" * 32)
    secret = leases.join(request, 0.0, "slave-1")[0].secret
    for each in (leases, restarted(leases)):
        check_secret(each, 1, secret, "slave-1")
        for other in ("slave-2", ""):
            with pytest.raises(UnprovenError, match="bound to another certificate"):
                check_secret(each, 1, secret, other)
            with pytest.raises(UnprovenError, match="another process holds a lease as a"):
                each.join(request, 0.0, other)
        assert each.join(request, 0.0, "slave-1")[0].secret == secret
    leases.leave(1, Telemetry(), "")
    assert leases.join(JoinRequest("b"), 0.0)[0].incarnation == 2
    check_secret(leases, 2, leases.join(JoinRequest("b"), 0.0)[0].secret)


# --- what is said of it -----------------------------------------------------------------------------------


def test_a_seats_second_slave_is_told_from_a_first_and_whom_it_replaces_is_said() -> None:
    leases = roster()
    first = [leases.join(JoinRequest(name), 0.0)[1][0] for name in "ab"]
    assert [(event.kind, event.reason) for event in first] == [("joined", ""), ("joined", "")]
    leases.leave(2, Telemetry(), "no data here")
    ticked(leases, 0.0, 5.0)
    after = restarted(leases)
    events = [after.join(JoinRequest(name), 0.0)[1][0] for name in "cd"]
    assert [(event.kind, event.layer, event.slave) for event in events] == [
        ("replaced", 1, "c"), ("replaced", 2, "d"),
    ]  # fmt: skip
    assert events[0].reason.startswith("incarnation 1, a: failed, silent for ")
    assert events[1].reason == "incarnation 2, b: left, no data here"


# --- joining ----------------------------------------------------------------------------------------------


def test_seats_are_granted_from_the_lowest_layer_up_and_then_one_waits() -> None:
    leases = roster([1, 2])
    seats = [leases.join(JoinRequest(name), 0.0)[0] for name in "abcd"]
    assert [(s.layer, s.replica) for s in seats[:3]] == [(1, 0), (2, 0), (2, 1)]
    assert not seats[3].granted
    assert leases.waiting() == 1
    assert leases.complete


def test_a_slave_that_asks_again_gets_the_same_lease() -> None:
    leases = roster()
    first, again = (leases.join(JoinRequest("a"), 0.0) for _ in range(2))
    assert again[0] == first[0]
    assert again[1] == []
    assert leases.seats(0.0)[0].grants == 1


def test_a_slave_without_a_name_gets_nothing() -> None:
    leases = roster()
    with pytest.raises(MalformedError, match="name"):
        leases.join(JoinRequest(), 0.0)
    assert not leases.complete


def test_who_waits_and_falls_silent_is_counted_no_more() -> None:
    leases = roster()
    for name in "abc":
        leases.join(JoinRequest(name), 0.0)
    assert leases.waiting() == 1
    leases.tick(5.0)
    assert leases.waiting() == 0


def test_a_seat_that_is_left_goes_to_the_next_who_asks() -> None:
    leases = roster()
    first = joined(leases, "a")
    joined(leases, "b")
    (event,) = leases.leave(first, Telemetry(steps=5), "interrupted")
    assert (event.kind, event.layer, event.reason) == ("left", 1, "interrupted")
    reply, _ = leases.join(JoinRequest("c"), 0.0)
    assert (reply.layer, reply.incarnation) == (1, 3)


# --- silence ----------------------------------------------------------------------------------------------


def test_a_slave_that_misses_two_heartbeats_is_failed_and_fenced() -> None:
    leases = roster()
    silent, lively = joined(leases, "a"), joined(leases, "b")
    for beat in range(1, 3):
        assert ticked(leases, beat - 1.0, float(beat)) == ([] if beat < 2 else [("failed", silent)])
        leases.heartbeat(lively, beat, Telemetry(), float(beat))
    for refused in (
        lambda: leases.heartbeat(silent, 1, Telemetry(), 2.0),
        lambda: leases.leave(silent, Telemetry(), ""),
        lambda: leases.seat(silent),
    ):
        with pytest.raises(FencedError, match=f"incarnation {silent} holds no lease"):
            refused()


@given(
    misses=st.integers(2, 5),
    begin=st.floats(0, 1),
    alive=st.floats(0, 3),
    interval=st.sampled_from([0.05, 1, 7]),
)
def test_a_slave_that_dies_is_failed_within_its_misses_and_not_before_one_less(
    misses: int, begin: float, alive: float, interval: float
) -> None:
    """The last heartbeat comes at any time between two ticks."""
    leases = Roster([1], interval, misses, keyring=KEYRING)
    now, seen = 0.0, begin * interval
    leases.tick(now)
    incarnation = joined(leases, "a", seen)
    while True:
        while seen + interval <= now + leases.tick_seconds and seen < alive * interval:
            seen += interval
            leases.heartbeat(incarnation, 1, Telemetry(), seen)
        now += leases.tick_seconds
        if leases.tick(now):
            break
    assert (misses - 0.25) * interval < now - seen <= misses * interval + 1e-9


def test_a_slave_whose_heartbeat_is_late_is_late_and_not_failed() -> None:
    leases = roster()
    joined(leases, "a")
    assert ticked(leases, 0.0, 1.8) == []
    assert leases.seats(1.8)[0].state == "late"


def test_a_tick_that_is_late_by_half_an_interval_extends_every_lease() -> None:
    leases = roster()
    for name in "ab":
        joined(leases, name)
    assert ticked(leases, 0.0, 1.8) == []
    # 0.7 s later: the silence of these may be ours.
    assert leases.tick(2.5) == []
    assert ticked(leases, 2.5, 4.3) == []
    assert ticked(leases, 4.3, 4.5) == [("failed", 1), ("failed", 2)]


def test_a_tick_that_is_late_by_less_extends_nothing() -> None:
    leases = roster()
    joined(leases, "a")
    assert ticked(leases, 0.0, 1.8) == []
    assert [event.kind for event in leases.tick(1.8 + 0.6)] == ["failed"]


def test_a_master_that_just_started_extends_every_lease() -> None:
    leases = roster()
    kept = joined(leases, "a", 0.0)
    again = restarted(leases)
    assert again.tick(1000.0) == []
    assert ticked(again, 1000.0, 1001.8) == []
    assert ticked(again, 1001.8, 1002.0) == [("failed", kept)]


def test_after_the_end_nobody_is_failed() -> None:
    leases = roster()
    for name in "ab":
        leases.heartbeat(joined(leases, name), 1, DONE, 0.0)
    assert ticked(leases, 0.0, 10.0) == []


# --- the end ----------------------------------------------------------------------------------------------


def test_the_run_is_over_only_when_every_seat_is_done() -> None:
    leases = roster([2, 1])
    held = [joined(leases, name) for name in "abc"]
    for incarnation in held:
        assert not leases.over
        assert [event.kind for event in leases.heartbeat(incarnation, 1, DONE, 1.0)] == ["done"]
        assert leases.heartbeat(incarnation, 2, DONE, 1.0) == []
    assert leases.over
    reply, _ = leases.join(JoinRequest("d"), 1.0)
    assert (reply.granted, reply.over) == (False, True)


def test_a_done_seat_whose_slave_goes_before_the_run_is_over_is_granted_again() -> None:
    """The slave's answer to END may not have reached the layer below."""
    leases = roster()
    first = joined(leases, "a")
    leases.heartbeat(first, 1, DONE, 0.0)
    leases.leave(first, DONE, "")
    second = joined(leases, "b")
    assert leases.seat(second).layer == 1
    third = joined(leases, "c")
    leases.heartbeat(second, 1, DONE, 0.0)
    leases.heartbeat(third, 1, DONE, 0.0)
    leases.leave(second, DONE, "")
    assert leases.over


def test_training_time_counts_from_all_seats_taken_to_the_end() -> None:
    leases = roster()
    first, second = joined(leases, "a", 1.0), joined(leases, "b", 3.0)
    assert leases.training_seconds(2.0) == 0 or leases.training_seconds(3.0) == 0
    assert leases.training_seconds(5.0) == 2.0
    leases.heartbeat(first, 1, DONE, 6.0)
    leases.heartbeat(second, 1, DONE, 7.0)
    assert leases.training_seconds(99.0) == 4.0


# --- a master's restart -----------------------------------------------------------------------------------


def test_a_restored_roster_keeps_incarnations_and_grants_only_newer_ones() -> None:
    leases = roster()
    fenced, kept = joined(leases, "a"), joined(leases, "b")
    leases.leave(fenced, Telemetry(), "")
    again = restarted(leases)
    again.tick(0.0)
    assert again.heartbeat(kept, 1, Telemetry(), 0.0) == []
    with pytest.raises(FencedError):
        again.heartbeat(fenced, 1, Telemetry(), 0.0)
    assert again.join(JoinRequest("b"), 0.0)[0].incarnation == kept
    assert joined(again, "c") == 3


def test_a_slave_that_goes_on_after_a_masters_restart_is_counted_once() -> None:
    """Telemetry counts the work under a lease: later telemetry replaces earlier telemetry."""
    leases = roster()
    kept = joined(leases, "a")
    first = Telemetry(steps=500, pulls=2, cpu_seconds=3.0, delays={1: 10})
    leases.heartbeat(kept, 1, first, 0.0)
    again = restarted(leases)
    assert again.seats(0.0)[0].telemetry == first
    more = Telemetry(steps=510, pulls=2, cpu_seconds=3.5, delays={1: 12})
    again.heartbeat(kept, 2, more, 0.0)
    assert again.seats(0.0)[0].telemetry == more


def test_what_a_seats_earlier_slaves_did_is_added_and_survives_a_restart() -> None:
    leases = roster()
    first = joined(leases, "a")
    leases.leave(first, Telemetry(steps=10, delays={0: 1, 3: 2}, next_batch=7), "")
    leases.heartbeat(joined(leases, "b"), 1, Telemetry(steps=5, delays={3: 1}, next_batch=9), 0.0)
    for each in (leases, restarted(leases), restarted(restarted(leases))):
        telemetry = each.seats(0.0)[0].telemetry
        assert (telemetry.steps, telemetry.delays, telemetry.next_batch) == (15, {0: 1, 3: 3}, 9)


def test_training_time_goes_on_after_a_restart_without_a_join() -> None:
    leases = roster()
    held = [joined(leases, name, 0.0) for name in "ab"]
    again = restarted(leases, 10.0)
    again.tick(1000.0)
    assert again.training_seconds(1005.0) == 15.0
    for incarnation in held:
        again.heartbeat(incarnation, 1, DONE, 1006.0)
    assert restarted(again, 1007.0).training_seconds(5000.0) == 16.0


def test_a_run_that_was_over_is_over_after_a_restart() -> None:
    leases = roster()
    for name in "ab":
        leases.heartbeat(joined(leases, name), 1, DONE, 0.0)
    again = restarted(leases)
    again.tick(50.0)
    assert again.over
    assert again.join(JoinRequest("c"), 50.0)[0].over


def test_merge_sums_counts_and_takes_the_newer_gauges() -> None:
    old = Telemetry(steps=1, step_seconds=2.0, loss=9.0, peak_rss_bytes=100, delays={1: 1})
    new = Telemetry(steps=2, step_seconds=1.0, loss=3.0, peak_rss_bytes=50, delays={1: 1, 2: 1})
    both = merge(old, new)
    assert (both.steps, both.step_seconds, both.loss, both.peak_rss_bytes) == (3, 3.0, 3.0, 100)
    assert both.delays == {1: 2, 2: 1}


# --- any history ------------------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Slaves that join, beat, fall silent, leave and finish; a clock; a master that freezes and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.replicas = [1, 2]
        self.roster = roster(self.replicas)
        self.highest = 0
        self.seats: dict[int, tuple[int, int]] = {}
        self.held: dict[int, str] = {}
        self.seen: dict[int, float] = {}
        self.fenced: set[int] = set()
        self.done: set[tuple[int, int]] = set()
        self.last_tick = 0.0

    def fence(self, incarnation: int, *, over: bool) -> None:
        del self.held[incarnation]
        self.fenced.add(incarnation)
        if not over:
            self.done.discard(self.seats[incarnation])

    @rule(slave=st.sampled_from("abcdef"))
    def join(self, slave: str) -> None:
        over, mine = len(self.done) == 3, [i for i, s in self.held.items() if s == slave]
        reply, events = self.roster.join(JoinRequest(slave), self.now)
        assert reply.over == over
        if not reply.granted:
            assert over or not mine
            return
        self.seen[reply.incarnation] = self.now
        if mine:
            assert [reply.incarnation] == mine
            assert events == []
            return
        assert reply.incarnation > self.highest
        assert (reply.layer, reply.replica) not in self.done
        self.highest = reply.incarnation
        self.held[reply.incarnation] = slave
        self.seats[reply.incarnation] = (reply.layer, reply.replica)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), done=st.integers(0, 4).map(lambda n: n == 0))
    def beat(self, data: st.DataObject, done: bool) -> None:
        incarnation = data.draw(st.sampled_from(sorted(self.held)))
        self.roster.heartbeat(incarnation, 1, Telemetry(done=done), self.now)
        self.seen[incarnation] = self.now
        if done:
            lease = self.roster.seat(incarnation)
            self.done.add((lease.layer, lease.replica))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        incarnation = data.draw(st.sampled_from(sorted(self.held)))
        over = self.roster.over
        self.roster.leave(incarnation, Telemetry(), "")
        self.fence(incarnation, over=over)

    @rule(seconds=st.sampled_from([0.1, 0.125, 0.2, 0.6]))
    def tick_in_time(self, seconds: float) -> None:
        self.now += seconds
        if self.now - self.last_tick > 0.625:
            self.tick_late(0.0)
            return
        self.last_tick = self.now
        failed = {event.incarnation for event in self.roster.tick(self.now) if event.kind == "failed"}
        silent = {i for i in self.held if self.now - self.seen[i] > 1.875 * INTERVAL}
        assert failed == (set() if self.roster.over else silent)
        for incarnation in failed:
            self.fence(incarnation, over=False)

    @rule(seconds=st.floats(0.8, 60))
    def tick_late(self, seconds: float) -> None:
        self.now += seconds
        self.last_tick = self.now
        assert self.roster.tick(self.now) == []
        self.seen = dict.fromkeys(self.held, self.now)

    @rule(down=st.floats(0, 60))
    def restart(self, down: float) -> None:
        saved = json.loads(json.dumps(self.roster.dump(self.now)))
        self.now += down
        self.roster = Roster(self.replicas, INTERVAL, 2, saved, keyring=KEYRING)
        self.tick_late(0.0)

    @invariant()
    def each_seat_has_at_most_one_lease_and_the_model_knows_it(self) -> None:
        seats = self.roster.seats(self.now)
        holders = {seat.incarnation: seat.slave for seat in seats if seat.incarnation}
        assert holders == self.held
        assert len({(seat.layer, seat.replica) for seat in seats}) == 3

    @invariant()
    def a_fenced_incarnation_never_comes_back(self) -> None:
        for incarnation in self.fenced:
            with pytest.raises(FencedError):
                self.roster.heartbeat(incarnation, 1, DONE, self.now)

    @invariant()
    def the_run_is_over_exactly_when_all_are_done(self) -> None:
        assert self.roster.over == (len(self.done) == 3)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40)


# --- neighbours ---------------------------------------------------------------------------------------


def seated(leases: Roster, names: str) -> dict[str, int]:
    """Let slaves with different addresses join in turn; returns the incarnations."""
    return {name: leases.join(JoinRequest(name, address=f"{name}:1"), 0.0)[0].incarnation for name in names}


def met(leases: Roster, incarnation: int, known: int = 0) -> list[str]:
    return [peer.address for peer in leases.neighbours(incarnation, known)[1]]


def test_a_slave_is_told_who_shares_a_batch_with_it_above_and_below() -> None:
    leases = roster([2, 1, 2, 4])
    at = seated(leases, "abcdefghi")
    assert {name: met(leases, at[name]) for name in "abcdefghi"} == {
        "a": ["c:1"],
        "b": ["c:1"],
        "c": ["a:1", "b:1", "d:1", "e:1"],
        "d": ["c:1", "f:1", "h:1"],
        "e": ["c:1", "g:1", "i:1"],
        "f": ["d:1"],
        "g": ["e:1"],
        "h": ["d:1"],
        "i": ["e:1"],
    }


def test_where_layer_k_broadcasts_every_slave_that_shares_a_batch_with_it_is_told_of_it() -> None:
    leases = Roster([2, 1, 1, 2], INTERVAL, 2, keyring=KEYRING, broadcasts=True)
    at = seated(leases, "abcdef")
    assert {name: met(leases, at[name]) for name in "abcdef"} == {
        "a": ["c:1", "e:1"],
        "b": ["c:1", "f:1"],
        "c": ["a:1", "b:1", "d:1", "e:1", "f:1"],
        "d": ["c:1", "e:1", "f:1"],
        "e": ["a:1", "c:1", "d:1"],
        "f": ["b:1", "c:1", "d:1"],
    }


def test_neighbours_that_are_known_cost_nothing_and_a_grant_makes_them_new() -> None:
    leases = roster([1, 1, 1])
    at = seated(leases, "abc")
    version, peers = leases.neighbours(at["b"], 0)
    assert [(peer.layer, peer.replica, peer.incarnation) for peer in peers] == [(1, 0, 1), (3, 0, 3)]
    assert leases.neighbours(at["b"], version) == (version, [])
    leases.leave(at["c"], Telemetry(), "")
    assert met(leases, at["b"]) == ["a:1"]
    at |= seated(leases, "d")
    newer, peers = leases.neighbours(at["b"], version)
    assert newer > version
    assert [(peer.incarnation, peer.address) for peer in peers] == [(1, "a:1"), (at["d"], "d:1")]


def test_a_master_that_is_started_anew_knows_the_addresses_and_goes_on_counting() -> None:
    leases = roster([1, 1, 1])
    at = seated(leases, "abc")
    version, peers = leases.neighbours(at["a"], 0)
    again = roster([1, 1, 1], json.loads(json.dumps(leases.dump(1.0))))
    assert again.neighbours(at["a"], 0) == (version, peers)
    again.leave(at["b"], Telemetry(), "")
    seated(again, "d")
    assert again.neighbours(at["a"], version)[0] > version


def test_who_is_fenced_is_told_no_neighbours_and_light_has_none() -> None:
    leases = roster()
    held = joined(leases, "a")
    joined(leases, "b")
    assert met(leases, held) == []
    leases.leave(held, Telemetry(), "")
    with pytest.raises(FencedError):
        leases.neighbours(held, 0)


# --- standing still ---------------------------------------------------------------------------------------


def still(leases: Roster, now: float) -> list[tuple[float, bool]]:
    return [(seat.still_seconds, seat.begun) for seat in leases.seats(now)]


def test_a_seat_stands_still_since_its_holders_last_batch_or_the_grant() -> None:
    leases = roster()
    held = joined(leases, "a", 1.0)
    assert still(leases, 4.0) == [(3.0, False), (0.0, False)]
    leases.heartbeat(held, 1, Telemetry(steps=5), 5.0)
    leases.heartbeat(held, 2, Telemetry(steps=5, waiting_seconds=1.0), 7.0)
    assert still(leases, 9.0)[0] == (4.0, True)


def test_a_successor_has_yet_to_begin_whatever_its_predecessor_did() -> None:
    leases = roster()
    held = joined(leases, "a")
    leases.heartbeat(held, 1, Telemetry(steps=5), 1.0)
    leases.leave(held, Telemetry(steps=5), "")
    joined(leases, "b", 8.0)
    assert still(leases, 9.0)[0] == (1.0, False)


def test_a_seat_that_is_done_does_not_stand_still() -> None:
    leases = roster()
    leases.heartbeat(joined(leases, "a"), 1, DONE, 1.0)
    assert still(leases, 90.0)[0] == (0.0, False)


def test_a_restarted_master_counts_from_its_own_first_tick() -> None:
    leases = roster()
    leases.heartbeat(joined(leases, "a"), 1, Telemetry(steps=5), 1.0)
    after = restarted(leases, 1000.0)
    after.tick(5.0)
    assert still(after, 8.0)[0] == (3.0, True)


def test_waiting_slaves_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("master.waiting.MOST_WAITING", 2)
    leases = Roster([1], INTERVAL, 2, keyring=KEYRING)
    for name in ("a", "b", "c", "b"):
        leases.join(JoinRequest(name), 0.0)
    with pytest.raises(UnreachableError, match="2 slaves wait for a seat already; ask again"):
        leases.join(JoinRequest("d"), 0.0)
    assert leases.waiting() == 2


def test_a_lease_that_ends_while_its_secret_is_checked_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slave joins again; a wrong secret would end the process."""
    leases = Roster([1], INTERVAL, 2, keyring=KEYRING)
    reply, _ = leases.join(JoinRequest("a"), 0.0)

    def ends(shown: str, stored: str) -> bool:
        leases.leave(reply.incarnation, Telemetry(), "")
        return False

    monkeypatch.setattr("master.leases.is_secret", ends)
    with pytest.raises(FencedError):
        check_secret(leases, reply.incarnation, reply.secret)
