"""master.run as a machine: requests and times in, replies and effects out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import strict_json
from common.config.files import load
from common.data.replicas import may_stop
from common.errors import FencedError, LayerwiseError, MalformedError, UnreachableError
from common.observe.problems import problems
from common.wire.codec import decoder, encode
from common.wire.curriculum import Curriculum, Score
from common.wire.messages import (
    Evaluation,
    HeartbeatReply,
    HeartbeatRequest,
    JoinRequest,
    LeaveRequest,
    StatusReply,
    Telemetry,
)
from common.wire.ranges import MOST
from common.wire.telemetry import LONGEST_DELAY
from master.restoration import fence_saved
from master.run import Run
from tests.master.keys import KEYRING

EVALUATION = Evaluation(100, 3.5, 0.25, {"1/weights": 7})


class Shards:
    """Progress by shard and replica."""

    def __init__(self, **progress: int) -> None:
        self.progress = progress

    def versions(self) -> dict[str, int]:
        return {"1/weights": 3}

    def next_batch(self, name: str, replica: int | None = None) -> int:
        return self.progress.get(f"layer{name[0]}", 0)

    def deal(self, start: int, replicas: Sequence[int]) -> None:
        self.dealt = start, replicas


def begin(
    *overrides: str, saved: dict[str, Any] | None = None, identity: str = "run", **progress: int
) -> Run:
    """Two layers' run."""
    config = load(None, ["network.cuts=[1]", *overrides])
    return Run(config, Shards(**progress), saved or {}, identity, KEYRING)


def restart(run: Run, now: float = 9.0) -> Run:
    """Restore a run from a dump, by way of JSON."""
    saved = json.loads(json.dumps(run.dump(now)))
    return Run(run.config, Shards(), saved, "another", KEYRING)


COPY = ("data.dataset=copy", "network.model=lstm", "time.window=3")


def at_k(run: Run, *scores: Score, next_batch: int = 0, now: float = 2.0) -> HeartbeatReply:
    """Send a heartbeat of the second of two slaves, which trains layer K."""
    telemetry = Telemetry(steps=next_batch, next_batch=next_batch)
    return run.heartbeat(HeartbeatRequest(2, 1, telemetry, scores=[*scores]), now)


def events(run: Run) -> list[str]:
    return [effect.line["event"] for effect in run.take_effects()]


def test_a_grant_is_an_effect_that_is_handed_over_once() -> None:
    run = begin(layer1=20)
    reply = run.join(JoinRequest("a"), 1.0)
    assert (reply.granted, reply.incarnation, reply.next_batch, reply.run) == (True, 1, 20, "run")
    (effect,) = run.take_effects()
    line = {"event": "joined", "layer": 1, "replica": 0, "incarnation": 1, "slave": "a", "why": ""}
    assert (effect.line, effect.ended) == (line, None)
    assert run.take_effects() == []


def test_a_heartbeat_has_an_effect_only_when_the_layer_gets_done() -> None:
    run = begin()
    held = run.join(JoinRequest("a"), 1.0).incarnation
    run.take_effects()
    run.heartbeat(HeartbeatRequest(held, 1, Telemetry(steps=3)), 2.0)
    assert events(run) == []
    run.heartbeat(HeartbeatRequest(held, 2, Telemetry(steps=4, done=True)), 3.0)
    assert events(run) == ["done"]


def test_a_lease_that_ends_is_named_by_its_effect() -> None:
    run = begin("cluster.heartbeat_seconds=1", "cluster.misses=2")
    left, silent = (run.join(JoinRequest(name), 0.0).incarnation for name in "ab")
    run.leave(LeaveRequest(left, "tired"), 0.1)
    for tick in range(1, 40):
        run.tick(tick / 8)
    ended = [effect.ended for effect in run.take_effects() if effect.ended]
    assert [(event.kind, event.incarnation) for event in ended] == [("left", left), ("failed", silent)]
    assert run.tally.failed_leases == 1


def test_a_fenced_request_has_no_effect() -> None:
    run = begin()
    for refused in (
        lambda: run.heartbeat(HeartbeatRequest(7), 1.0),
        lambda: run.leave(LeaveRequest(7), 1.0),
    ):
        with pytest.raises(FencedError):
            refused()
    assert run.take_effects() == []


def test_an_evaluation_is_an_effect_and_outlives_the_master() -> None:
    run = begin()
    run.report(EVALUATION, 1.0)
    assert events(run) == ["evaluated"]
    assert run.status(2.0).evaluation == restart(run).status(2.0).evaluation == EVALUATION


def begin_copying(*overrides: str) -> Run:
    """Two layers' run on copy, with a slave each."""
    run = begin(*COPY, *overrides)
    for name in "ab":
        assert run.join(JoinRequest(name), 0.0).curriculum == Curriculum([0], 200)
    run.take_effects()
    return run


def test_levels_are_decided_from_layer_ks_scores_and_every_answer_has_them() -> None:
    run = begin_copying()
    assert at_k(run).curriculum == Curriculum([0], 200)
    assert run.take_effects() == []
    assert at_k(run, Score(0, 100.0, 100)).curriculum == Curriculum([0], 300)
    # The values are owed to the disk before the answer leaves, although there is nothing to log.
    assert [effect.line for effect in run.take_effects()] == [{}]
    assert at_k(run, Score(1, 1.0, 100)).curriculum == Curriculum([0, 300], 400)
    assert [effect.line for effect in run.take_effects()] == [{"event": "level", "level": 2, "batch": 300}]
    first = run.heartbeat(HeartbeatRequest(1, 1, Telemetry()), 2.0)
    assert first.curriculum == run.status(3.0).curriculum == Curriculum([0, 300], 400)
    assert begin().status(1.0).curriculum == Curriculum()


def test_scores_of_another_layer_or_of_a_run_without_levels_are_refused() -> None:
    run = begin_copying()
    with pytest.raises(MalformedError, match="layer 1 reported scores"):
        run.heartbeat(HeartbeatRequest(1, 1, Telemetry(), scores=[Score(0, 1.0, 100)]), 2.0)
    plain = begin()
    for name in "ab":
        plain.join(JoinRequest(name), 0.0)
    with pytest.raises(MalformedError, match="layer 2 reported scores"):
        at_k(plain, Score(0, 1.0, 100))
    with pytest.raises(FencedError):
        run.heartbeat(HeartbeatRequest(9, 1, Telemetry(), scores=[Score(0, 1.0, 100)]), 2.0)
    assert run.take_effects() == []


def test_decided_levels_outlive_the_master_a_rollback_and_a_recovery() -> None:
    run = begin_copying()
    early = run.dump(1.0)
    at_k(run, Score(0, 1.0, 100), Score(1, 1.0, 100), next_batch=300)
    known = Curriculum([0, 200], 400)
    assert restart(run).join(JoinRequest("c"), 9.0).curriculum == known
    # Batches from 200 on keep their level, though the weights have not seen them.
    run.begin_rollback(1, early, 3.0)
    run.end_rollback()
    assert run.join(JoinRequest("c"), 4.0).curriculum == known
    fenced, _ = fence_saved(run.config, run.dump(5.0), early, "power cut", 5.0)
    assert Run(run.config, Shards(), fenced, "x", KEYRING).status(6.0).curriculum == known
    # The run goes on from there: block 2, of the second level, decides on block 4.
    assert run.grading is not None
    assert run.grading.hear(0, [Score(2, 1.0, 100)])
    assert run.status(7.0).curriculum == Curriculum([0, 200, 400], 500)


def test_levels_that_nobody_will_report_are_decided_once_the_run_stands_still() -> None:
    run = begin_copying("cluster.heartbeat_seconds=1", "cluster.misses=100")
    run.heartbeat(HeartbeatRequest(1, 1, Telemetry(steps=200, next_batch=200)), 1.0)
    at_k(run, next_batch=50, now=1.0)
    for now in (1.1, 5.0, 10.9):
        run.tick(now)
    assert run.status(11.0).curriculum == Curriculum([0], 200)
    run.tick(11.1)
    run.tick(11.2)
    assert run.status(11.3).curriculum == Curriculum([0], 300)
    assert [effect.line for effect in run.take_effects()] == [{}]


def test_a_run_that_stands_still_for_another_reason_decides_nothing() -> None:
    run = begin_copying("cluster.heartbeat_seconds=1", "cluster.misses=100")
    run.heartbeat(HeartbeatRequest(1, 1, Telemetry(steps=150, next_batch=150)), 1.0)
    for now in (1.0, 20.0, 30.0):
        run.tick(now)
    assert run.status(31.0).curriculum == Curriculum([0], 200)


def test_a_restart_keeps_identity_leases_and_counts() -> None:
    run = begin()
    held = run.join(JoinRequest("a"), 1.0).incarnation
    run.tally.add(pushes=5)
    run = restart(run)
    assert (run.status(9.0).starts, run.status(9.0).counters.pushes) == (2, 5)
    again = run.join(JoinRequest("a"), 10.0)
    assert (again.incarnation, again.run) == (held, "run")


def test_nobody_joins_between_the_two_ends_of_a_rollback() -> None:
    run = begin()
    before = run.dump(0.0)
    held = run.join(JoinRequest("a"), 1.0).incarnation
    run.report(EVALUATION, 1.0)
    run.take_effects()
    assert run.begin_rollback(4, before, 2.0) == 1
    (effect,) = run.take_effects()
    assert effect.ended
    assert (effect.ended.kind, effect.ended.incarnation) == ("fenced", held)
    with pytest.raises(UnreachableError, match="put back to snapshot 4"):
        run.join(JoinRequest("a"), 3.0)
    assert run.take_effects() == []
    run.end_rollback()
    assert run.join(JoinRequest("a"), 4.0).incarnation == held + 1
    assert run.status(5.0).evaluation == Evaluation()


def test_a_run_at_rest_is_fenced_as_a_live_one_is() -> None:
    live, before = begin(), begin().dump(0.0)
    live.join(JoinRequest("a"), 1.0)
    live.report(EVALUATION, 1.0)
    saved = json.loads(json.dumps(live.dump(2.0)))
    live.take_effects()
    live.begin_rollback(4, before, 2.0)
    fenced, effects = fence_saved(live.config, saved, before, "rolled back to snapshot 4", 2.0)
    assert effects == live.take_effects()
    expected = json.loads(json.dumps(live.dump(2.0)))
    # A run at rest has heard no heartbeat.
    for lease in expected["roster"]["leases"]:
        lease["seen"] = lease["moved"] = 0.0
    assert json.loads(json.dumps(fenced)) == expected


def test_layers_that_wait_for_nobody_are_told_to_begin_and_to_stop() -> None:
    run = begin("decoupling.unlock=full", "run.batches=50")
    first = run.join(JoinRequest("a"), 1.0).incarnation

    def signals(incarnation: int, next_batch: int) -> tuple[bool, bool]:
        reply = run.heartbeat(HeartbeatRequest(incarnation, 1, Telemetry(next_batch=next_batch)), 2.0)
        return reply.begin, reply.stop

    assert signals(first, 0) == (False, False)
    second = run.join(JoinRequest("b"), 1.0).incarnation
    assert signals(first, 80) == (True, False)
    assert signals(second, 50) == (True, True)


@pytest.mark.parametrize(("next_batches", "stop"), [([50, 49], False), ([50, 80], True), ([0], False)])
def test_the_slowest_layer_decides_when_to_stop(next_batches: list[int], stop: bool) -> None:
    assert may_stop(next_batches, 50) is stop


def change(run: Run, slave: str, now: float) -> None:
    """Have a slave take a seat, do three batches that nobody gets to see, and leave."""
    held = run.join(JoinRequest(slave), now).incarnation
    run.heartbeat(HeartbeatRequest(held, 1, Telemetry(steps=3)), now)
    run.tick(now)
    run.leave(LeaveRequest(held), now)


def said(run: Run, now: float) -> list[str]:
    return [problem.what for problem in problems(run.status(now), run.config, "layerwise slave")]


def test_a_run_whose_slaves_change_faster_than_they_push_says_so_while_every_seat_is_taken() -> None:
    run = begin(layer1=20)
    first = run.join(JoinRequest("a"), 0.0).incarnation
    run.join(JoinRequest("b"), 0.0)
    run.tick(0.0)
    run.leave(LeaveRequest(first), 0.0)
    for count in range(29):
        change(run, f"a{count}", float(count))
    last = run.join(JoinRequest("c"), 30.0).incarnation
    run.tick(30.0)
    assert run.status(30.0).state == "training"
    assert said(run, 30.0) == [
        "the run stands still: no progress for 30 s, although 30 slaves have taken over a seat since then"
    ]
    run.heartbeat(HeartbeatRequest(last, 1, Telemetry(steps=1, next_batch=1)), 30.5)
    run.tick(30.5)
    assert said(run, 30.5) == []


def test_a_restarted_master_counts_successors_and_seconds_from_its_own_first_look() -> None:
    run = begin()
    run.tick(0.0)
    for count in range(30):
        change(run, f"a{count}", float(count))
    after = restart(run)
    after.tick(1000.0)
    after.tick(1015.0)
    status = after.status(1015.0)
    assert (status.still_seconds, status.successors) == (15.0, 0)


def test_the_status_has_the_progress_of_the_slowest_layer_in_slaves_or_shards() -> None:
    run = begin("run.batches=50", layer1=20, layer2=12)
    held = run.join(JoinRequest("a"), 1.0).incarnation
    run.heartbeat(HeartbeatRequest(held, 1, Telemetry(next_batch=30, steps=9)), 2.0)
    status = run.status(3.0)
    assert (status.state, status.batches, status.of_batches) == ("waiting", 12, 50)
    assert status.versions == {"1/weights": 3}


@given(
    st.lists(st.tuples(st.sampled_from(("join", "leave", "done", "tick", "roll back")), st.integers(0, 3)))
)
def test_whatever_happens_every_lease_ends_once_and_a_restart_goes_on_from_there(
    steps: list[tuple[str, int]],
) -> None:
    run, now = begin(), 0.0
    begun = run.dump(now)
    granted: list[int] = []
    ended: list[int] = []
    for word, number in steps:
        now += 1.0
        held = granted[-1 - number % len(granted)] if granted else 0
        try:
            if word == "join":
                reply = run.join(JoinRequest(f"slave {number}"), now)
                granted += [reply.incarnation] if reply.incarnation > max(granted, default=0) else []
            elif word == "leave":
                run.leave(LeaveRequest(held), now)
            elif word == "done":
                run.heartbeat(HeartbeatRequest(held, 1, Telemetry(done=True)), now)
            elif word == "tick":
                run.tick(now)
            else:
                run.begin_rollback(1, begun, now)
                run.end_rollback()
        except LayerwiseError:
            assert run.take_effects() == []
        ended += [effect.ended.incarnation for effect in run.take_effects() if effect.ended]
    seats = run.status(now).seats
    assert granted == list(range(1, len(granted) + 1))
    assert sorted(ended + [seat.incarnation for seat in seats if seat.incarnation]) == granted
    again = restart(run, now).status(now).seats
    assert [(s.incarnation, s.grants, s.state == "done") for s in again] == [
        (s.incarnation, s.grants, s.state == "done") for s in seats
    ]


def test_counts_of_two_slaves_stay_at_the_bound_and_status_can_be_sent() -> None:
    """Two heartbeats with lost_batches = 2**63 once made Status fail, also after a restart."""
    run = begin("network.cuts=[]")
    delays = {3: MOST, 2**32 - 1: 1}
    most = Telemetry(lost_batches=MOST, step_seconds=1e12, waiting_seconds=1e12, delays=delays)
    for name in "ab":
        held = run.join(JoinRequest(name), 1.0).incarnation
        run.heartbeat(HeartbeatRequest(held, 1, most), 2.0)
        run.leave(LeaveRequest(held, "", most), 2.0)
    for each in (run, restart(run)):
        status = decoder(StatusReply)(encode(each.status(3.0)))
        assert (status.lost_batches, status.delays[3], status.delays[LONGEST_DELAY]) == (MOST, MOST, 2)


def test_progress_grows_and_stays_within_the_run() -> None:
    """With next_batch = 2**63 the successor once trained nothing."""
    run = begin("run.batches=50", "downpour.replicas=[3, 1]")
    held = run.join(JoinRequest("a"), 1.0).incarnation

    def claim(next_batch: int) -> int:
        run.heartbeat(HeartbeatRequest(held, 1, Telemetry(next_batch=next_batch)), 2.0)
        return run.status(3.0).seats[0].telemetry.next_batch

    # The next batch of a replica may lie past the last batch.
    assert [claim(next_batch) for next_batch in (20, 7, 52)] == [20, 20, 52]
    with pytest.raises(MalformedError, match="next_batch = 53 is beyond the end of the run, 52 at most"):
        claim(53)
    with pytest.raises(MalformedError):
        run.leave(LeaveRequest(held, "", Telemetry(next_batch=2**40)), 2.0)


def test_with_full_a_layer_may_pass_the_runs_end() -> None:
    run = begin("run.batches=50", "decoupling.unlock=full")
    held = run.join(JoinRequest("a"), 1.0).incarnation
    run.heartbeat(HeartbeatRequest(held, 1, Telemetry(next_batch=5000)), 2.0)
    with pytest.raises(MalformedError):
        run.heartbeat(HeartbeatRequest(held, 1, Telemetry(next_batch=2**50)), 2.0)


def test_numbers_that_are_not_finite_survive_a_restart_as_null() -> None:
    run = begin()
    held = run.join(JoinRequest("a"), 1.0).incarnation
    run.heartbeat(HeartbeatRequest(held, 1, Telemetry(loss=math.nan, input_loss=-math.inf)), 2.0)
    run.report(Evaluation(10, 90.0, math.inf, {"1/weights": 3}), 3.0)
    text = strict_json.encode(run.dump(4.0))
    assert "NaN" not in text
    assert "Infinity" not in text
    again = Run(run.config, Shards(), json.loads(text), "another", KEYRING).status(5.0)
    assert math.isnan(again.evaluation.test_loss)
    assert math.isnan(again.seats[0].telemetry.loss)
    assert decoder(StatusReply)(encode(again)).state == "waiting"


def test_saved_numbers_out_of_range_are_refused_by_name() -> None:
    saved = json.loads(json.dumps(begin().dump(0.0)))
    saved["evaluation"]["test_error_percent"] = 1e300
    with pytest.raises(MalformedError, match=r"Evaluation\.test_error_percent = 1e\+300"):
        begin(saved=saved)
