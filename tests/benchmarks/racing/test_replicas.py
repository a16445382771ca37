"""Rivals whose ranks meet every H steps, as a group of one rank: what a meeting does to the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks.racing.replicas import OUTER_MOMENTUM, OUTER_RATE, DiLoCo, LocalSgd
from benchmarks.rivals import Plain, PreparedRun

SETTINGS = ["network.options={widths=[8]}", "network.layers=2", "run.batch_size=32", "run.batches=8"]


@pytest.fixture(autouse=True)
def _group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _flat(rival: Plain) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in rival.own.parameters()])


def test_a_lone_rank_of_local_sgd_is_back_propagation_and_is_seen_at_meetings() -> None:
    local, plain = LocalSgd(PreparedRun.prepare(SETTINGS), 2), Plain(PreparedRun.prepare(SETTINGS))
    for step in range(4):
        local.step(step)
        plain.step(step)
        assert bool(local.part()) == (step % 2 == 1)
    assert torch.equal(_flat(local), _flat(plain))


def test_diloco_steps_on_the_change_of_h_steps_with_nesterovs_momentum() -> None:
    outer = DiLoCo(PreparedRun.prepare(SETTINGS), 2)
    start = _flat(outer)
    outer.step(0)
    velocity, common = torch.zeros_like(start), start
    for step in (1, 2, 3):
        plain = LocalSgd(PreparedRun.prepare(SETTINGS), 100)
        # Loaded moments may be the saved tensors themselves.
        plain.restore(copy.deepcopy(outer.saved()))
        plain.step(step)
        outer.step(step)
        if step % 2:
            change = common - _flat(plain)
            velocity = OUTER_MOMENTUM * velocity + change
            common = common - OUTER_RATE * (change + OUTER_MOMENTUM * velocity)
        expected = common if step % 2 else _flat(plain)
        torch.testing.assert_close(_flat(outer), expected, rtol=1e-5, atol=1e-7)


def test_a_rank_of_diloco_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    whole, first = DiLoCo(PreparedRun.prepare(SETTINGS), 2), DiLoCo(PreparedRun.prepare(SETTINGS), 2)
    for step in range(6):
        whole.step(step)
    for step in range(3):
        first.step(step)
    torch.save(first.saved(), tmp_path / "checkpoint")
    second = DiLoCo(PreparedRun.prepare(SETTINGS), 2)
    second.restore(torch.load(tmp_path / "checkpoint", weights_only=True))
    for step in range(3, 6):
        second.step(step)
    torch.testing.assert_close(_flat(second), _flat(whole))
