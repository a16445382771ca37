"""Changes of the number of replicas over stores, which know a stage before a slave of the stage pushes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from common.errors import UnreachableError
from common.wire.messages import HeartbeatReply, HeartbeatRequest, JoinReply, LeaveRequest, Telemetry
from common.wire.stages import Promise, ResizeRequest, Stage
from tests.master.pushes import update
from tests.master.storing.rig import Rig, play

# First batch of the second stage.
START = 5


async def change(rig: Rig) -> dict[str, JoinReply]:
    """Have the run, where slave a is on layer 1, go on with two replicas of layer 1; the leases after it."""
    run, ledger = rig.master.run, rig.master.ledger
    leases = {"a": next(lease for lease in run.roster.seating.leases if lease.incarnation).incarnation}
    leases |= {name: (await rig.join(name)).incarnation for name in "bc"}

    async def beat(name: str, telemetry: Telemetry, promise: Promise) -> HeartbeatReply:
        request = HeartbeatRequest(leases[name], 1, telemetry, promise=promise)
        return await rig.call(ledger.apply(run.heartbeat, request))

    await rig.call(ledger.apply(run.resize, ResizeRequest([2, 1, 1])))
    # The fourth slave waits.
    assert not (await rig.join("d")).granted
    for promise in (Promise(), Promise(1, START)):
        for name in leases:
            await beat(name, Telemetry(next_batch=START), promise)
    assert run.change.end == START
    done = Telemetry(next_batch=START, done=True)
    for name in leases:
        await beat(name, done, Promise())
    for name, incarnation in leases.items():
        assert (await beat(name, done, Promise())).rejoin
        await rig.call(ledger.apply(run.leave, LeaveRequest(incarnation, "", done)))
    return {name: await rig.join(name) for name in "abcd"}


async def begin_second_stage(rig: Rig) -> None:
    found = await change(rig)
    seats = {(lease.layer, lease.replica): lease for lease in found.values()}
    assert seats.keys() == {(1, 0), (1, 1), (2, 0), (3, 0)}
    # Nobody of the second stage has pushed yet.
    assert rig.shelves[1].store.next_batch("1/weights") == START
    assert {rig.master.run.next_batch(lease) for lease in seats.values()} == {START}
    # Batches are counted by both replicas from the first of the stage on.
    for replica, reached in ((1, START + 2), (0, START + 3)):
        incarnation = seats[1, replica].incarnation
        header, pieces = update([1.0], 1, incarnation=incarnation, next_batch=reached)
        assert rig.shelves[1].parameters.push(replace(header, replica=replica), pieces).applied
    assert rig.shelves[1].store.next_batch("1/weights") == START + 2
    # A store that starts again learns of the stage before anything else.
    rig.files[1].dead = True
    await rig.settle()
    await rig.until(lambda: rig.shelves[1].store.next_batch("1/weights") == START + 2)
    stores = rig.master.run.stores
    assert stores is not None
    await rig.until(lambda: stores.next_batch("1/weights") == START + 2)
    assert stores.order.stage == Stage(START, [2, 1, 1])


async def roll_back(rig: Rig) -> None:
    kept = await rig.call(rig.master.scheduler.take())
    await change(rig)
    await rig.call(rig.master.scheduler.roll_back(kept.number))
    await rig.settle()
    assert rig.master.run.change.replicas == (1, 1, 1)
    assert rig.shelves[1].store.next_batch("1/weights") == 0
    assert (await rig.join("a")).next_batch == 0


async def change_during_a_snapshot(rig: Rig) -> None:
    attendance, stores = rig.master.attendance, rig.master.run.stores
    assert attendance is not None
    assert stores is not None
    perform = attendance.perform

    async def slowly(*task: Any, **more: Any) -> Any:
        found = await perform(*task, **more)
        stores.deal(START, [2, 1, 1])
        return found

    with (
        patch.object(attendance, "perform", slowly),
        pytest.raises(UnreachableError, match="replicas changed during the snapshot; take it again"),
    ):
        await rig.call(rig.master.scheduler.take())
    assert await rig.call(rig.master.scheduler.list_all()) == []
    assert (await rig.call(rig.master.scheduler.take())).number


def test_stores_count_the_batches_of_the_second_stage_from_its_first_on() -> None:
    play(begin_second_stage)


def test_a_rollback_takes_stores_back_to_the_replicas_of_the_snapshot() -> None:
    play(roll_back)


def test_a_snapshot_of_two_stages_does_not_exist() -> None:
    play(change_during_a_snapshot)
