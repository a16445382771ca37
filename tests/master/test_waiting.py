"""First seats of a run: faster machines get the layers with more work, and nobody waits for ever."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import MalformedError
from common.wire.messages import JoinReply, JoinRequest
from master.roster import Roster
from master.run import Run
from master.waiting import FIRST_BEATS, MOST_WAITING
from tests.master.keys import KEYRING
from tests.master.test_resizing import Cluster, Shards, configured

BEAT = 1.0
WORK = [1.0, 8.0, 3.0]


def roster(replicas: list[int] | None = None, work: list[float] | None = None) -> Roster:
    made = Roster(replicas or [1, 1, 1], BEAT, 2, keyring=KEYRING)
    made.tick(0.0)
    made.beginning.learn(WORK if work is None else work, 3)
    return made


def ask(leases: Roster, slave: str, speed: float, now: float = 0.0) -> JoinReply:
    return leases.join(JoinRequest(slave, speed=speed), now)[0]


def test_the_first_seats_are_dealt_together_by_speed_and_work() -> None:
    leases = roster()
    assert ask(leases, "slow", 1.0).dealing
    assert ask(leases, "fast", 9.0).dealing
    # The last one gets its seat at once, and the others with their next requests.
    assert ask(leases, "middle", 4.0).layer == 3
    assert ask(leases, "slow", 1.0).layer == 1
    assert ask(leases, "fast", 9.0).layer == 2
    assert not ask(leases, "spare", 99.0).dealing
    assert leases.waiting() == 1


def test_layers_of_like_work_need_no_wait() -> None:
    leases = roster(work=[10.0, 10.5, 10.9])
    assert [ask(leases, name, 5.0).layer for name in "abc"] == [1, 2, 3]


def test_without_known_work_the_seats_are_held_back_although_all_are_there() -> None:
    leases = roster(work=[])
    speeds = {"a": 1.0, "b": 5.0, "c": 2.0}
    assert all(ask(leases, name, speed).dealing for name, speed in speeds.items())
    leases.beginning.learn(WORK, 3)
    found = {name: ask(leases, name, speed).layer for name, speed in speeds.items()}
    assert found == {"b": 2, "c": 3, "a": 1}


def test_slaves_that_come_again_and_again_hold_nobody_back_for_ever() -> None:
    leases = roster(work=[])
    now = 0.0
    while ask(leases, f"name {now}", 1.0, now).dealing:
        now += 4 * BEAT
        assert now <= 25 * BEAT


def test_a_network_that_is_known_stays_known() -> None:
    leases = roster()
    leases.beginning.learn([1.0, 1.0, 1.0], 3)
    assert ask(leases, "slow", 1.0).dealing


def test_a_slave_whose_speed_is_not_known_waits_for_nobody() -> None:
    leases = roster()
    assert ask(leases, "fast", 9.0).dealing
    assert ask(leases, "foreign", 0.0).layer == 1
    assert ask(leases, "slow", 2.0).layer == 3
    assert ask(leases, "fast", 9.0).layer == 2


@pytest.mark.parametrize("work", [WORK, []])
def test_nobody_waits_for_ever_and_later_slaves_get_what_is_left(work: list[float]) -> None:
    leases = roster(work=work)
    slaves = {"slow": 1.0, "fast": 9.0}
    seats: dict[str, int] = {}
    now = 0.0
    while len(seats) < len(slaves):
        for name, speed in slaves.items():
            reply = ask(leases, name, speed, now)
            seats |= {name: reply.layer} if reply.granted else {}
        now += BEAT / 2
        leases.tick(now)
        assert now <= (FIRST_BEATS + 2) * BEAT
    assert seats == ({"fast": 2, "slow": 3} if work else {"fast": 1, "slow": 2})
    left = ask(leases, "faster", 90.0, now)
    assert (left.granted, left.layer) == (True, 1 if work else 3)


def test_a_slave_that_has_gone_meanwhile_has_no_seat() -> None:
    leases = roster()
    assert ask(leases, "gone", 99.0).dealing
    for quarter in range(1, 12):
        leases.tick(quarter * BEAT / 4)
        assert ask(leases, "a", 2.0, quarter * BEAT / 4).dealing
    assert ask(leases, "b", 1.0, 3 * BEAT).dealing
    assert ask(leases, "c", 3.0, 3 * BEAT).layer == 2
    assert leases.waiting() == 2


def test_a_run_that_has_begun_deals_no_first_seats() -> None:
    leases = roster()
    for name in "abc":
        ask(leases, name, 1.0)
    saved = json.loads(json.dumps(leases.dump(0.0)))
    again = Roster([1, 1, 1], BEAT, 2, saved, keyring=KEYRING)
    again.tick(0.0)
    assert ask(again, "d", 1.0).granted
    assert ask(Roster([2], BEAT, 2, keyring=KEYRING), "a", 1.0).granted, "seats of one layer are alike"


def test_the_work_of_another_network_is_refused() -> None:
    config = configured()
    run = Run(config, Shards(config.replicas), {}, "run", KEYRING)
    with pytest.raises(MalformedError, match="3 layers; the run has 2"):
        run.join(JoinRequest("a", speed=1.0, work=WORK), 0.0)


def test_a_cluster_begins_with_the_faster_machine_on_the_heavier_layer() -> None:
    cluster = Cluster()
    cluster.run.roster.beginning.learn([1.0, 4.0], 2)
    cluster.start(1, speed=30.0)
    cluster.start(1, speed=10.0)
    cluster.round()
    assert {slave.name: slave.lease.layer for slave in cluster.slaves} == {"slave 1": 2, "slave 2": 1}


@given(
    st.lists(st.integers(0, 100), min_size=6, max_size=8),
    st.lists(st.floats(1, 1e9), min_size=3, max_size=3),
    st.randoms(use_true_random=False),
)
def test_every_seat_gets_one_slave_and_work_follows_speed(
    speeds: list[int], work: list[float], draws: object
) -> None:
    leases = roster([2, 1, 3], work)
    names = [f"slave {n}" for n in range(len(speeds))]
    found: dict[str, JoinReply] = {}
    for _ in range(3):
        draws.shuffle(names)  # type: ignore[attr-defined]
        for name in names:
            if name not in found:
                reply = ask(leases, name, float(speeds[int(name[6:])]))
                found |= {name: reply} if reply.granted else {}
    assert sorted((each.layer, each.replica) for each in found.values()) == [
        (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (3, 2),
    ]  # fmt: skip
    if min(speeds) > 0 and len(speeds) == 6 and max(work) >= 1.1 * min(work):
        by_work = sorted(found, key=lambda name: -work[found[name].layer - 1])
        known = [speeds[int(name[6:])] for name in by_work]
        loads = [work[found[name].layer - 1] for name in by_work]
        for (one, load), (other, less) in zip(
            zip(known, loads, strict=True), [*zip(known, loads, strict=True)][1:], strict=False
        ):
            assert one >= other or load == less


def test_the_bound_of_waiting_slaves_holds_before_the_first_seats_too() -> None:
    leases = roster(work=[])
    for n in range(MOST_WAITING):
        ask(leases, f"slave {n}", 1.0)
    with pytest.raises(Exception, match="slaves wait for a seat already"):
        ask(leases, "one more", 1.0)
