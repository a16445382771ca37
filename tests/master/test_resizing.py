"""Changes of the number of replicas: who trains which batch, in any order of beats, joins and restarts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.config.files import load
from common.config.sections import Config
from common.data.replicas import next_own
from common.data.stages import Stages
from common.errors import ConfigError, FencedError, LayerwiseError, RefusedError
from common.wire.messages import (
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    Telemetry,
)
from common.wire.stages import Promise, ResizeReply, ResizeRequest, Resizing
from master.balance import grow
from master.restoration import fence_saved
from master.run import Run
from tests.master.keys import KEYRING

BATCHES = 40
LAYERS = 2


class Shards:
    """Progress by layer and replica; every batch counts as pushed once it is trained on."""

    def __init__(self, replicas: Sequence[int]) -> None:
        self.start, self.replicas = 0, [*replicas]
        self.progress: dict[tuple[int, int], int] = {}

    def versions(self) -> dict[str, int]:
        return {}

    def next_batch(self, name: str, replica: int | None = None) -> int:
        k = int(name[0])
        if replica is None:
            return min(self.next_batch(name, each) for each in range(self.replicas[k - 1]))
        return max(self.progress.get((k, replica), 0), self.start)

    def deal(self, start: int, replicas: Sequence[int]) -> None:
        self.start, self.replicas = start, [*replicas]


@dataclass
class Slave:
    """Slave that obeys: trains its own batches up to the end of its stage."""

    name: str
    lease: JoinReply = field(default_factory=JoinReply)
    next: int = 0
    end: int = 0
    promise: Promise = field(default_factory=Promise)
    steps: int = 0
    speed: float = 0.0
    step_seconds: float = 0.0

    def take(self, lease: JoinReply, batches: int) -> None:
        self.lease, self.promise, self.steps = lease, Promise(), 0
        self.end = lease.end or batches
        self.next = self.own(lease.next_batch)

    def own(self, batch: int) -> int:
        return next_own(batch, self.lease.replica, self.lease.replicas[self.lease.layer - 1])

    @property
    def may_step(self) -> bool:
        held = self.promise.question and self.next >= self.promise.batch
        return self.lease.granted and self.next < self.end and not held

    def step(self) -> int:
        trained, self.next, self.steps = self.next, self.own(self.next + 1), self.steps + 1
        return trained

    @property
    def telemetry(self) -> Telemetry:
        # Other replicas go on from the end.
        reached, seconds = min(self.next, self.end), self.steps * self.step_seconds
        done = self.next >= self.end
        return Telemetry(steps=self.steps, next_batch=reached, done=done, step_seconds=seconds)

    def obey(self, reply: HeartbeatReply) -> None:
        if reply.end:
            self.end, self.promise = min(self.end, reply.end), Promise()
        elif reply.hold != self.promise.question:
            self.promise = Promise(reply.hold, self.next) if reply.hold else Promise()


class Cluster:
    """Master and slaves; time stands still but in ticks.

    Attributes:
        trained: batches by layer.
    """

    def __init__(self, *overrides: str) -> None:
        self.config = configured(*overrides)
        self.shards = Shards(self.config.replicas)
        self.run = Run(self.config, self.shards, {}, "run", KEYRING)
        self.now = 0.0
        self.slaves: list[Slave] = []
        self.trained: Counter[tuple[int, int]] = Counter()
        self._names = 0
        self.tick(0.0)

    def start(self, count: int = 1, speed: float = 0.0) -> None:
        for _ in range(count):
            self._names += 1
            self.slaves.append(Slave(f"slave {self._names}", speed=speed))
            self.join(self.slaves[-1])

    def join(self, slave: Slave) -> None:
        reply = self.run.join(JoinRequest(slave.name, speed=slave.speed), self.now)
        if reply.granted:
            slave.take(reply, self.config.run.batches)

    def beat(self, slave: Slave) -> None:
        """Send a heartbeat, or ask for a seat."""
        if not slave.lease.granted:
            self.join(slave)
            return
        request = HeartbeatRequest(slave.lease.incarnation, 1, slave.telemetry, promise=slave.promise)
        try:
            reply = self.run.heartbeat(request, self.now)
        except FencedError:
            slave.lease = JoinReply()
            return
        slave.obey(reply)
        if reply.rejoin:
            self.run.leave(LeaveRequest(slave.lease.incarnation, "", slave.telemetry), self.now)
            slave.lease = JoinReply()

    def step(self, slave: Slave) -> None:
        batch, (k, r) = slave.step(), (slave.lease.layer, slave.lease.replica)
        self.trained[k, batch] += 1
        self.shards.progress[k, r] = slave.telemetry.next_batch

    def tick(self, seconds: float = 0.125) -> None:
        self.now += seconds
        self.run.tick(self.now)

    def restart(self) -> None:
        """Have another master go on, on the values of the last."""
        saved = json.loads(json.dumps(self.run.dump(self.now)))
        self.shards.deal(0, self.config.replicas)
        self.run = Run(self.config, self.shards, saved, "other", KEYRING)
        self.tick()

    def round(self) -> None:
        """Every slave trains a batch, if it may, and sends a heartbeat."""
        for slave in self.slaves:
            if slave.may_step:
                self.step(slave)
            self.beat(slave)
        self.tick()

    def finish(self) -> None:
        """Go on to the end of the run."""
        for _ in range(20 * BATCHES):
            if self.run.roster.over:
                return
            self.round()
        raise AssertionError(f"the run stands still: {self.run.status(self.now)}")

    def counts(self) -> set[int]:
        """How often each batch was trained on by each layer."""
        return {self.trained[k + 1, batch] for k in range(LAYERS) for batch in range(BATCHES)}

    def resize(self, *replicas: int) -> ResizeReply:
        return self.run.resize(ResizeRequest([*replicas]), self.now)

    @property
    def stages(self) -> Stages:
        return self.run.change.stages


def configured(*overrides: str) -> Config:
    return load(None, ["network.cuts=[1]", f"run.batches={BATCHES}", *overrides])


def test_a_change_waits_for_slaves_and_every_batch_is_trained_on_once() -> None:
    cluster = Cluster()
    cluster.start(LAYERS)
    for _ in range(5):
        cluster.round()
    reply = cluster.resize(3)
    assert reply == ResizeReply([1, 1], Resizing([3, 3], missing=4))
    cluster.round()
    assert cluster.run.status(cluster.now).resizing == reply.resizing
    cluster.start(3)
    cluster.round()
    assert cluster.run.change.hold == 0, "one slave is missing still"
    cluster.start()
    while not (announced := cluster.run.change.end):
        cluster.round()
    # Nobody has begun a batch of the next stage, and all before are still to come.
    assert max(batch for _, batch in cluster.trained) < announced
    while cluster.run.change.end:
        cluster.round()
    for k in (1, 2):
        assert {b for layer, b in cluster.trained if layer == k} == set(range(announced))
    assert len(cluster.run.status(cluster.now).seats) == 6
    assert cluster.resize(2).resizing.missing == 0
    cluster.finish()
    assert cluster.counts() == {1}
    assert cluster.stages.replicas == ((1, 1), (3, 3), (2, 2))
    status = cluster.run.status(cluster.now)
    assert (status.state, len(status.seats), status.lost_batches) == ("done", 4, 0)
    # Two slaves wait: the seats that went are no seats.
    assert sum(slave.lease.granted for slave in cluster.slaves) == 4


def test_slaves_find_their_seats_again_and_spares_take_the_new_ones() -> None:
    cluster = Cluster()
    cluster.start(LAYERS)
    cluster.start(2)
    before = {slave.name: slave.lease.layer for slave in cluster.slaves if slave.lease.granted}
    cluster.resize(2)
    while cluster.run.change.present == 0 or not cluster.run.roster.complete:
        # The spares ask first.
        cluster.slaves.reverse()
        cluster.round()
        cluster.slaves.reverse()
    after = {slave.name: (slave.lease.layer, slave.lease.replica) for slave in cluster.slaves}
    assert all(after[name] == (layer, 0) for name, layer in before.items())
    assert sorted(after.values()) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_faster_machine_takes_the_layer_with_more_work_when_seats_are_dealt() -> None:
    cluster = Cluster()
    cluster.start(2, speed=10.0)
    for slave in cluster.slaves:
        slave.step_seconds = 0.1 if slave.lease.layer == 1 else 0.4
    cluster.start(1, speed=30.0)
    cluster.resize(2, 1)
    while cluster.run.change.present == 0 or not cluster.run.roster.complete:
        cluster.round()
    layers = {slave.name: slave.lease.layer for slave in cluster.slaves}
    assert layers == {"slave 1": 1, "slave 2": 1, "slave 3": 2}


def test_replicas_may_differ_by_layer_and_a_request_may_be_taken_back() -> None:
    cluster = Cluster()
    cluster.start(LAYERS)
    assert cluster.resize(2, 1).resizing == Resizing([2, 1], 1)
    assert cluster.resize(3, 1).resizing == Resizing([3, 1], 2)
    assert cluster.resize(1).resizing == Resizing()
    cluster.start(1)
    cluster.resize(2, 1)
    cluster.finish()
    assert cluster.counts() == {1}
    assert cluster.stages.replicas == ((1, 1), (2, 1))


def announced(*counts: int, slaves: int) -> tuple[Cluster, int]:
    """A cluster that is about to change, and the first batch of the change."""
    cluster = Cluster()
    cluster.start(slaves)
    cluster.resize(*counts)
    while cluster.run.change.end is None:
        cluster.round()
    return cluster, cluster.run.change.end


@pytest.mark.parametrize("left", [0, 1])
def test_a_second_request_takes_the_place_of_an_announced_change(left: int) -> None:
    """Also of one whose stage ends at this moment, when slaves have given their leases back."""
    cluster, start = announced(2, slaves=5)
    for slave in cluster.slaves * BATCHES:
        if sum(each.lease.granted for each in cluster.slaves) == LAYERS - left:
            break
        if slave.may_step:
            cluster.step(slave)
        cluster.beat(slave)
    assert cluster.run.change.present == 0
    assert cluster.resize(3, 2) == ResizeReply([1, 1], Resizing([3, 2], start=start))
    # As durable as the first.
    cluster.restart()
    cluster.finish()
    assert cluster.counts() == {1}
    assert cluster.stages == Stages((0, start), ((1, 1), (3, 2)))


def test_an_announced_change_may_be_taken_back_and_said_again() -> None:
    cluster, start = announced(2, slaves=4)
    assert cluster.resize(2).resizing == Resizing([2, 2], start=start)
    assert cluster.resize(1).resizing == Resizing([1, 1], start=start)
    cluster.finish()
    assert cluster.counts() == {1}
    assert cluster.stages.replicas == ((1, 1), (1, 1))


def test_a_second_request_that_lacks_slaves_says_what_is_under_way_and_changes_nothing() -> None:
    cluster, start = announced(2, slaves=4)
    before = kept(cluster)
    told = f"the change to 2 2 from batch {start} on is under way, and 3 3 takes 6 slaves, of which 4 are"
    with pytest.raises(RefusedError, match=f"{told} there; ask again once"):
        cluster.resize(3)
    assert kept(cluster) == before
    while cluster.run.change.present == 0 or not cluster.run.roster.complete:
        cluster.round()
    # Then it can wait for them.
    assert cluster.resize(3).resizing == Resizing([3, 3], missing=2)


def test_a_change_at_the_runs_end_is_dropped() -> None:
    cluster = Cluster()
    cluster.start(LAYERS)
    while any(slave.may_step for slave in cluster.slaves):
        for slave in cluster.slaves:
            if slave.may_step:
                cluster.step(slave)
    cluster.start(2)
    cluster.resize(2)
    cluster.finish()
    assert cluster.counts() == {1}
    assert cluster.stages.replicas == ((1, 1),)
    with pytest.raises(RefusedError, match="the run is over"):
        cluster.resize(2)


def test_leases_after_a_change_or_a_rollback_are_no_restarts() -> None:
    cluster = Cluster("run.batches=100")
    cluster.start(2 * LAYERS)
    begun = kept(cluster)
    cluster.resize(2)
    while cluster.run.change.present == 0 or not cluster.run.roster.complete:
        cluster.round()
    cluster.run.begin_rollback(1, begun, cluster.now)
    cluster.run.end_rollback()
    cluster.shards.progress.clear()
    # The newest replicas are wanted anew.
    for _ in range(40):
        cluster.round()
    assert cluster.run.change.present == 1
    assert (cluster.run.change.wanted, cluster.run.change.end) == (None, None)
    assert cluster.run.roster.complete
    assert cluster.run.status(cluster.now).counters.restarts == 0
    cluster.start()
    gone = next(slave for slave in cluster.slaves if slave.lease.granted)
    cluster.run.leave(LeaveRequest(gone.lease.incarnation, "died", gone.telemetry), cluster.now)
    cluster.slaves.remove(gone)
    cluster.round()
    assert cluster.run.status(cluster.now).counters.restarts == 1
    cluster.restart()
    assert cluster.run.status(cluster.now).counters.restarts == 1


def test_a_seat_whose_slave_does_not_come_back_is_given_up_and_its_batches_are_counted() -> None:
    cluster = Cluster("downpour.replicas=2")
    cluster.start(4)
    for _ in range(3):
        cluster.round()
    gone = cluster.slaves.pop()
    at = gone.lease.layer, gone.lease.replica
    cluster.resize(1)
    while cluster.run.change.present == 0:
        cluster.round()
        assert cluster.now < 60, "the run goes on without the slave"
    start = cluster.run.change.start
    lost = [batch for batch in range(start) if not cluster.trained[at[0], batch]]
    assert lost
    assert all(batch % 2 == at[1] for batch in lost)
    assert cluster.run.status(cluster.now).lost_batches == len(lost)
    cluster.finish()
    assert cluster.counts() == {0, 1}
    assert cluster.run.status(cluster.now).lost_batches == len(lost)


def test_the_counts_of_a_seat_outlive_the_seat() -> None:
    cluster = Cluster("downpour.replicas=2")
    cluster.start(4)
    for _ in range(4):
        cluster.round()
    cluster.resize(1)
    cluster.finish()
    work = [lease.total() for lease in cluster.run.roster.seating.all()]
    assert sum(each.steps for each in work) == LAYERS * BATCHES
    cluster.restart()
    assert [lease.total() for lease in cluster.run.roster.seating.all()] == work


def kept(cluster: Cluster) -> dict[str, Any]:
    """What the master keeps with a snapshot now."""
    values: dict[str, Any] = json.loads(json.dumps(cluster.run.dump(cluster.now)))
    return values


def test_a_snapshot_at_the_end_of_a_stage_ends_no_run() -> None:
    cluster = Cluster()
    cluster.start(2 * LAYERS)
    cluster.resize(2)
    while not (cluster.run.change.end and cluster.run.roster.seating.passed):
        for slave in cluster.slaves:
            if slave.may_step:
                cluster.step(slave)
            cluster.beat(slave)
            if cluster.run.change.end and cluster.run.roster.seating.passed:
                break
        cluster.tick()
    saved = kept(cluster)
    at_rest = fence_saved(cluster.config, saved, saved, "power cut", cluster.now)[0]
    assert not Run(cluster.config, Shards([1, 1]), at_rest, "run", KEYRING).roster.over
    cluster.run.begin_rollback(1, saved, cluster.now)
    cluster.run.end_rollback()
    assert not cluster.run.roster.over
    cluster.finish()
    assert cluster.stages.replicas == ((1, 1), (2, 2))


def test_a_rollback_may_lead_to_a_stage_that_an_earlier_one_took_back() -> None:
    cluster = Cluster("downpour.replicas=2")
    cluster.start(4)
    for _ in range(4):
        cluster.round()
    early = kept(cluster)
    cluster.resize(1)
    while cluster.run.change.present == 0:
        cluster.round()
    cluster.round()
    late, progress = kept(cluster), dict(cluster.shards.progress)
    for values in (early, late):
        cluster.run.begin_rollback(1, values, cluster.now)
        cluster.run.end_rollback()
    cluster.shards.progress = progress
    assert (cluster.run.change.present, cluster.run.change.replicas) == (1, (1, 1))


def test_a_stage_waits_for_slaves_that_are_all_away() -> None:
    cluster = Cluster("run.batches=100")
    cluster.start(4)
    for _ in range(5):
        cluster.round()
    cluster.resize(2)
    while not cluster.run.change.end:
        for slave in cluster.slaves:
            cluster.beat(slave)
    for slave in cluster.slaves[:2]:
        cluster.run.leave(LeaveRequest(slave.lease.incarnation, "stopped", slave.telemetry), cluster.now)
    cluster.restart()
    for _ in range(1000):
        cluster.tick()
    assert cluster.run.change.present == 0
    assert cluster.run.status(cluster.now).lost_batches == 0


def test_the_balance_takes_back_what_its_slaves_have_left() -> None:
    cluster = Cluster("run.batches=4000", "downpour.replicas_max=3")
    cluster.start(4)
    while cluster.run.change.replicas != (2, 2):
        cluster.round()
    saved = kept(cluster)
    cluster.start(2)
    while cluster.run.change.replicas != (3, 3):
        cluster.round()
    cluster.run.begin_rollback(1, saved, cluster.now)
    cluster.run.end_rollback()
    for slave in cluster.slaves:
        slave.lease = JoinReply()
    del cluster.slaves[3:]
    for _ in range(600):
        cluster.round()
    change = cluster.run.change
    assert (sum(change.replicas), change.wanted, change.missing(cluster.run.roster)) == (3, None, 0)


def test_the_balance_asks_no_more_once_a_layer_has_passed_the_runs_batches() -> None:
    cluster = Cluster("run.batches=1000", 'decoupling.unlock="full"', "downpour.replicas_max=3")
    cluster.start(3)
    slow, fast, waiting = cluster.slaves
    held = 0
    for turn in range(400):
        cluster.tick()
        cluster.join(waiting)
        for slave, at in ((slow, 300 + turn // 10), (fast, 1001 + turn // 10)):
            told = Telemetry(steps=at, next_batch=at)
            request = HeartbeatRequest(slave.lease.incarnation, 1, told, promise=slave.promise)
            hold = cluster.run.heartbeat(request, cluster.now).hold
            slave.promise = Promise(hold, at) if hold else Promise()
            held += slave is slow and hold > 0
    assert 0 < held < 5


def test_a_rollback_goes_back_to_the_replicas_of_the_snapshot_and_wants_the_newest_anew() -> None:
    cluster = Cluster()
    cluster.start(4)
    early = cluster.run.dump(cluster.now)
    cluster.resize(2)
    while cluster.run.change.present == 0:
        cluster.round()
    saved = cluster.run.dump(cluster.now)
    for values in (saved, fence_saved(cluster.config, saved, early, "power cut", cluster.now)[0]):
        run = Run(cluster.config, Shards([1, 1]), json.loads(json.dumps(values)), "run", KEYRING)
        if values is saved:
            run.begin_rollback(1, early, cluster.now)
            run.end_rollback()
        assert (run.change.replicas, run.change.wanted) == ((1, 1), (2, 2))
        assert [(seat.layer, seat.replica) for seat in run.status(cluster.now).seats] == [(1, 0), (2, 0)]
    cluster.run.begin_rollback(1, early, cluster.now)
    cluster.shards.progress.clear()
    cluster.run.end_rollback()
    for slave in cluster.slaves:
        cluster.beat(slave)
    cluster.trained.clear()
    cluster.finish()
    assert cluster.counts() == {1}
    assert cluster.stages.replicas == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("overrides", "replicas", "what"),
    [
        ((), [1, 2, 3], "3 numbers for 2 layers"),
        ((), [65], "1 to 64 replicas"),
        ((), [0], "1 to 64 replicas"),
        (("time.window=3", "data.dataset=copy", "network.model=lstm"), [2], "time.window = 3"),
        (("downpour.push=update", "downpour.server_optimizer=nesterov"), [2], "rounds are of R pushes"),
    ],
)
def test_what_cannot_be_is_refused_in_one_error(
    overrides: tuple[str, ...], replicas: list[int], what: str
) -> None:
    run = Run(configured(*overrides), Shards([1, 1]), {}, "run", KEYRING)
    with pytest.raises(RefusedError, match=f"^resize: .*{what}"):
        run.resize(ResizeRequest(replicas), 1.0)


def test_a_run_takes_waiting_slaves_in_up_to_the_bound_and_retires_seats_without_one() -> None:
    cluster = Cluster("downpour.replicas_max=2", "run.batches=4000")
    cluster.start(LAYERS)
    cluster.start(3)
    for _ in range(80):
        cluster.round()
    # One more than the bound: the last slave waits.
    assert cluster.run.change.replicas == (2, 2)
    assert cluster.run.status(cluster.now).waiting_slaves == 1
    spare = next(slave for slave in cluster.slaves if not slave.lease.granted)
    gone = next(slave for slave in cluster.slaves if slave.lease.layer == 2)
    cluster.slaves = [slave for slave in cluster.slaves if slave not in (spare, gone)]
    while cluster.run.change.present < 2:
        cluster.round()
        assert cluster.now < 200, "the run does without the slave"
    assert cluster.run.change.replicas == (2, 1)
    for batch in range(cluster.run.change.start, cluster.run.change.start + 10):
        while not cluster.trained[2, batch]:
            cluster.round()


def test_an_operators_number_stays_in_a_run_that_would_change_it() -> None:
    cluster = Cluster("downpour.replicas_max=3", "run.batches=4000")
    cluster.start(LAYERS)
    cluster.start(1)
    cluster.resize(1)
    for _ in range(60):
        cluster.round()
    cluster.restart()
    for _ in range(60):
        cluster.round()
    assert cluster.stages.replicas == ((1, 1),)


def test_further_slaves_go_to_the_layer_that_takes_longest_for_a_batch() -> None:
    seconds = {1: 1.0, 2: 2.5}
    assert grow([1, 1], 3, 1, seconds) == [1, 2]
    assert grow([1, 1], 3, 3, seconds) == [2, 3]
    assert grow([1, 1], 3, 9, seconds) == [3, 3]
    assert grow([2, 2], 2, 1, seconds) == [2, 2]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("downpour.server_optimizer=nesterov", "rounds are of R pushes"),
        ("downpour.replicas=3", "3, or leave downpour.replicas_max out"),
    ],
)
def test_a_bound_that_cannot_hold_is_refused(override: str, what: str) -> None:
    with pytest.raises(ConfigError, match=f"downpour.replicas_max: .*{what}"):
        configured("downpour.replicas_max=2", override)


def test_what_a_run_may_come_to_by_itself_is_checked_at_its_start() -> None:
    # With one replica nothing is fetched.
    own = ["downpour.fragments=4", "downpour.n_push=8", "downpour.n_fetch=2"]
    assert configured(*own).downpour.fragments == 4
    with pytest.raises(ConfigError, match="4 fragments cannot take turns within 2 steps"):
        configured(*own, "downpour.replicas_max=2")


def test_stages_of_another_run_are_refused_at_a_start() -> None:
    cluster = Cluster()
    saved: dict[str, Any] = json.loads(json.dumps(cluster.run.dump(0.0)))
    for key, value in (("present", 1), ("questions", -1), ("announced", [])):
        broken = {**saved, "stages": {**saved["stages"], key: value}}
        with pytest.raises(LayerwiseError):
            Run(cluster.config, Shards([1, 1]), broken, "run", KEYRING)


class Changing(RuleBasedStateMachine):
    """Slaves step and beat in any order while replicas change, slaves come, and masters are restarted."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.cluster.start(LAYERS)
        # Announced before: stays so.
        self.known, self.begun = self.cluster.stages, 0

    @rule(data=st.data())
    def train(self, data: st.DataObject) -> None:
        for slave in data.draw(st.lists(st.sampled_from(self.cluster.slaves), max_size=6)):
            if slave.may_step:
                self.cluster.step(slave)

    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        for slave in data.draw(st.lists(st.sampled_from(self.cluster.slaves), max_size=6)):
            self.cluster.beat(slave)

    @rule(counts=st.lists(st.integers(1, 3), min_size=1, max_size=LAYERS))
    @precondition(lambda self: not self.cluster.run.roster.over)
    def resize(self, counts: list[int]) -> None:
        stages = self.cluster.stages
        try:
            self.cluster.resize(*counts)
        except RefusedError:
            assert self.cluster.run.change.end is not None
            assert self.cluster.stages == stages

    @rule()
    @precondition(lambda self: len(self.cluster.slaves) < 7)
    def come(self) -> None:
        self.cluster.start()

    @rule()
    def restart(self) -> None:
        self.cluster.restart()

    @rule()
    def whole_round(self) -> None:
        self.cluster.round()

    @invariant()
    def what_is_announced_stays(self) -> None:
        stages = self.cluster.stages
        assert stages.starts[: len(self.known.starts)] == self.known.starts
        # Until seats of a stage are dealt, an operator may ask for other replicas.
        assert stages.through(self.begun) == self.known.through(self.begun)
        self.known, self.begun = stages, self.cluster.run.change.present

    @invariant()
    def nobody_has_begun_a_batch_behind_the_stage(self) -> None:
        end = self.cluster.run.change.end
        assert end is None or all(batch < end for _, batch in self.cluster.trained)
        assert set(self.cluster.trained.values()) <= {1}

    def teardown(self) -> None:
        self.cluster.start(6)
        self.cluster.finish()
        assert self.cluster.counts() == {1}
        stages = self.cluster.stages
        seats = self.cluster.run.status(self.cluster.now).seats
        assert len(seats) == sum(stages.replicas[stages.number(BATCHES - 1)])


TestChanging = Changing.TestCase
TestChanging.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
