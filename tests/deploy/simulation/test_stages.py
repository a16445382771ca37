"""Simulated runs whose number of replicas changes: every layer trains every batch once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from common.errors import ConfigError
from deploy.simulation.driver import Driver
from slave.training.free import FreeTrainer
from slave.training.trainer import WindowedTrainer
from tests.deploy.runs import digits, resolved

CHANGES = 'simulation.resizes={"20" = 3, "41" = [2, 1, 1]}'


@pytest.mark.parametrize(
    ("unlock", "stores"),
    [*((unlock, 0) for unlock in ("none", "update", "delayed", "local", "full", "alignment")), ("update", 2)],
)
@pytest.mark.parametrize("trains", [False, True])
def test_every_layer_trains_every_batch_once_through_changes(
    unlock: str, stores: int, trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: Counter[tuple[int, int]] = Counter()
    for kind in (WindowedTrainer, FreeTrainer):
        advance = kind.advance

        def note(trainer: Any, advance: Any = advance) -> Any:
            steps, follows = trainer.steps, trainer._k > 1 and unlock != "full"
            lowest = trainer._lowest if follows else None
            batch = lowest.lowest if lowest else trainer._next
            yield from advance(trainer)
            if trainer.steps > steps:
                begun[trainer._k, batch] += 1

        monkeypatch.setattr(kind, "advance", note)
    settings = "run.batches=60", "network.layers=3", CHANGES, f"cluster.stores={stores}"
    config = resolved(f"decoupling.unlock={unlock}", *settings)
    run = Driver(config, digits(), trains=trains)
    for _ in run.run():
        pass
    assert run.status().lost_batches == 0
    assert [(machine.layer, machine.replica) for machine in run.machines] == [(1, 0), (1, 1), (2, 0), (3, 0)]
    inside = {each: count for each, count in begun.items() if each[1] < 60}
    assert inside == {(k, batch): 1 for k in (1, 2, 3) for batch in range(60)}
    if trains:
        assert [run.master.store.next_batch(f"{k}/weights") >= 60 for k in (1, 2, 3)] == [True] * 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ('{"60" = 2}', "not in a run of 60 batches"),
        ('{"0" = 2}', "a batch above 0"),
        ('{"x" = 2}', "a batch above 0"),
        ('{"9" = "two"}', "a number of replicas"),
        ('{"9" = [1, 2]}', "2 numbers for 3 layers"),
    ],
)
def test_changes_of_no_run_are_refused(changes: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Driver(
            resolved("run.batches=60", "network.layers=3", f"simulation.resizes={changes}"),
            digits(),
            trains=False,
        )
