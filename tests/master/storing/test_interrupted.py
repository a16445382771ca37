"""Snapshots and rollbacks over stores, with a death of any process at each of its operations on files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from common.errors import FencedError, RunFailedError, UnreachableError
from common.wire.stores import StoreTask, TaskKind, TaskResult
from tests.master.storing.rig import MASTER, SHARDS, STORES, Rig, play

# More operations than a scene has.
FAR = 100_000
# Each operation, where there is time for that.
STEPS = pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])


async def _pushed(rig: Rig) -> int:
    """Push 1, take snapshot 1, push 1 again; the incarnation."""
    rig.push(1, 1)
    await _reported(rig)
    assert (await rig.call(rig.master.scheduler.take())).number == 1
    rig.push(1, 2)
    await _reported(rig)
    return 1


async def _reported(rig: Rig) -> None:
    """Wait until the master knows the present versions."""
    await rig.until(lambda: rig.master.run.status(0.0).versions == _versions(rig))


def _versions(rig: Rig) -> dict[str, int]:
    found: dict[str, int] = {}
    for shelf in rig.shelves.values():
        found |= shelf.store.versions()
    return dict(sorted(found.items()))


async def _goes_on(rig: Rig) -> None:
    """A new slave joins and pushes."""
    before = rig.values()
    lease = await rig.join("b")
    if lease.layer == 1:
        rig.push(lease.incarnation, 1)
        assert rig.values() == tuple(value + 1 for value in before)


async def _roll_back(rig: Rig, who: int, step: int) -> int:
    """Roll back with a death of a process at its operation `step`; the number of its operations."""
    await _pushed(rig)
    files = rig.files[who]
    files.kill_in = step
    done = await rig.attempt(rig.master.scheduler.roll_back(1))
    used = step - files.kill_in
    files.kill_in = 0
    await rig.settle()
    values = rig.values()
    # All or nothing: at the snapshot, or every acknowledged push is there.
    assert values in ((1.0, 1.0), (2.0, 2.0))
    assert values == (1.0, 1.0) or not done
    if values == (1.0, 1.0):
        with pytest.raises(FencedError):
            rig.push(1, 3)
    else:
        rig.push(1, 3)
        rig.values()
    await _goes_on(rig)
    return used


@STEPS
@pytest.mark.parametrize("who", [MASTER, *STORES])
def test_a_rollback_is_all_or_nothing_whoever_dies_at_any_step(who: int, stride: int) -> None:
    steps = play(partial(_roll_back, who=who, step=FAR))
    assert steps > 5
    for step in range(1 + who % stride, steps + 1, stride):
        play(partial(_roll_back, who=who, step=step))


async def _snapshot(rig: Rig, who: int, step: int) -> int:
    """Take snapshot 2 with a death of a process at its operation `step`; the number of its operations."""
    await _pushed(rig)
    files = rig.files[who]
    files.kill_in = step
    done = await rig.attempt(rig.master.scheduler.take())
    used = step - files.kill_in
    files.kill_in = 0
    await rig.settle()
    assert rig.values() == (2.0, 2.0)
    rig.push(1, 3)
    await _reported(rig)
    assert await rig.attempt(rig.master.scheduler.roll_back(0))
    # The newest snapshot that exists is whole, and of one number in both stores.
    assert rig.values() in ((1.0, 1.0), (2.0, 2.0))
    assert rig.values() == (2.0, 2.0) or not done
    return used


@STEPS
@pytest.mark.parametrize("who", [MASTER, *STORES])
def test_a_snapshot_exists_whole_or_not_at_all_whoever_dies_at_any_step(who: int, stride: int) -> None:
    steps = play(partial(_snapshot, who=who, step=FAR))
    assert steps > 5
    for step in range(1 + who % stride, steps + 1, stride):
        play(partial(_snapshot, who=who, step=step))


@pytest.mark.parametrize("who", STORES)
def test_a_power_cut_of_a_store_takes_the_whole_run_to_the_newest_snapshot(who: int) -> None:
    async def scene(rig: Rig) -> None:
        await _pushed(rig)
        rig.files[who].dead = True
        rig.disks[who].cut_power()
        await rig.until(lambda: _buried(rig, who))
        stores = rig.master.run.stores
        assert stores is not None
        await rig.until(stores.damage)
        assert f"store {who}: the machine was restarted" in stores.damage()
        await rig.call(rig.master.scheduler.repair(stores.damage()))
        await rig.settle()
        assert rig.values() == (1.0, 1.0)
        await _goes_on(rig)

    play(scene)


def _buried(rig: Rig, who: int) -> bool:
    rig._bury()
    return not rig.files[who].dead


def test_an_orderly_stop_before_a_power_cut_loses_nothing() -> None:
    async def scene(rig: Rig) -> None:
        await _pushed(rig)
        rig.shelves[1].close()
        rig.files[1].dead = True
        rig.disks[1].cut_power()
        await rig.settle()
        assert rig.values() == (2.0, 2.0)

    play(scene)


def test_a_rollback_waits_for_a_store_that_is_away_and_nobody_joins_meanwhile() -> None:
    async def scene(rig: Rig) -> None:
        await _pushed(rig)
        restore = rig.shelves[2].perform
        rig.shelves[2].perform = lambda task: _refuse(task, restore)  # type: ignore[method-assign]
        with pytest.raises(RunFailedError, match="store 2: not now"):
            await rig.call(rig.master.scheduler.roll_back(1))
        with pytest.raises(UnreachableError, match="being put back to snapshot 1"):
            await rig.join("b")
        rig.shelves[2].perform = restore  # type: ignore[method-assign]
        await rig.call(rig.master.scheduler.roll_back(1))
        assert rig.values() == (1.0, 1.0)
        await _goes_on(rig)

    play(scene)


def test_a_rollback_that_a_store_has_held_up_is_tried_again_before_the_next_snapshot_is_due() -> None:
    async def scene(rig: Rig) -> None:
        await _pushed(rig)
        rig.look_after()
        await asyncio.sleep(0.01)
        restore = rig.shelves[2].perform
        rig.shelves[2].perform = lambda task: _refuse(task, restore)  # type: ignore[method-assign]
        with pytest.raises(RunFailedError, match="store 2: not now"):
            await rig.call(rig.master.scheduler.roll_back(1))
        rig.shelves[2].perform = restore  # type: ignore[method-assign]
        await rig.settle()
        assert rig.values() == (1.0, 1.0)

    play(scene)


def test_a_rollback_that_is_under_way_is_not_done_twice() -> None:
    async def scene(rig: Rig) -> None:
        await _pushed(rig)
        scheduler = rig.master.scheduler
        rolling = asyncio.ensure_future(rig.call(scheduler.roll_back(1)))
        await rig.until(lambda: scheduler._unfinished)
        await rig.call(scheduler._finish_rollback())
        await rolling
        lines = [line["event"] for line in rig.master.state.recent]
        assert lines.count("rolled back") == 1

    play(scene)


def _refuse(task: StoreTask, restore: Callable[[StoreTask], TaskResult]) -> TaskResult:
    return TaskResult(task.number, "not now") if task.kind is TaskKind.RESTORE else restore(task)


def test_a_damaged_part_refuses_the_rollback_before_anything_is_changed() -> None:
    async def scene(rig: Rig) -> None:
        await _pushed(rig)
        path = rig.shelves[2]._snapshots.get(1)._file(SHARDS[2])
        rig.disks[2].find(path).data[-1] ^= 1  # type: ignore[union-attr]
        with pytest.raises(RunFailedError, match=r"store 2: .*checksum"):
            await rig.call(rig.master.scheduler.roll_back(1))
        assert rig.values() == (2.0, 2.0)
        rig.push(1, 3)

    play(scene)


def test_a_task_that_is_over_is_not_done_again_by_a_store_that_starts_later() -> None:
    async def scene(rig: Rig) -> None:
        await _pushed(rig)
        await rig.call(rig.master.scheduler.roll_back(1))
        lease = await rig.join("b")
        rig.push(lease.incarnation, 1, 5.0)
        rig.files[1].dead = rig.files[2].dead = True
        await rig.settle()
        await asyncio.sleep(0.01)
        assert rig.values() == (6.0, 6.0)

    play(scene)
