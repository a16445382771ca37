"""Order of a lease's end: durable first, forgotten by the store second."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import FencedError, NoRoomError, UnreachableError
from common.wire.messages import LeaveRequest
from tests.master.disk.test_recovery import begun, contents, push, trained
from tests.master.full_disk import full_disk
from tests.master.pushes import update


def test_a_push_of_a_lease_whose_end_was_not_durable_counts_once(tmp_path: Path) -> None:
    """A master that cannot save the end is killed: the next one still knows the lease, and its pushes."""
    with begun(tmp_path) as master:
        held = trained(master)
        with full_disk(), pytest.raises(NoRoomError):
            master.ledger.apply(master.run.leave, LeaveRequest(held))
        assert master.state.pairs["1/weights"].record.sequences == {held: 5}
    with begun(tmp_path) as master:
        header, pieces = update((1.0, 1.0), 5, incarnation=held)
        assert not master.parameters.push(header, pieces).applied
        assert contents(master) == [5.0, 5.0]


def test_a_lease_whose_end_was_owed_is_forgotten_with_the_next_save(tmp_path: Path) -> None:
    with begun(tmp_path) as master:
        held = trained(master)
        with full_disk(), pytest.raises(NoRoomError):
            master.ledger.apply(master.run.leave, LeaveRequest(held))
        # A master that starts again would know the lease: its holder is not called fenced yet.
        with pytest.raises(UnreachableError, match="not written yet"):
            push(master, held, 6, 6)
        master.ledger.tick()
        with pytest.raises(FencedError):
            push(master, held, 6, 6)
        assert master.state.pairs["1/weights"].record.sequences == {}
