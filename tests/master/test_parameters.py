"""master.parameters without a wire: pushes by header, lease and shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from common.errors import FencedError, LayerwiseError, MalformedError, NotFoundError
from common.shards.pushes import Operation, PullRequest
from common.shards.table import lay_out
from common.wire.messages import JoinRequest, Telemetry
from master.parameters import ParameterService
from master.roster import Roster
from master.store.store import Memory, Pieces, Store
from master.tally import Tally
from tests.master.keys import KEYRING
from tests.master.pushes import creation, parameters, update


class Machine:
    """Layer with two replicas, and a shard of two zeros; replica 0 holds incarnation 1."""

    def __init__(self) -> None:
        self.roster, self.store, self.tally = Roster([2], 1.0, 3, keyring=KEYRING), Store(Memory()), Tally()
        self.service = ParameterService(self.roster, self.store, self.tally)
        for name in "ab":
            self.roster.join(JoinRequest(name), 0.0)
        assert self.service.push(*creation((0.0, 0.0))).applied

    def contents(self) -> list[float]:
        reading = self.store.read("1/weights")
        found: list[float] = np.frombuffer(reading.buffer, np.float32).tolist()
        reading.release()
        return found


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_push_of_the_holder_is_admitted_against_the_registered_table(machine: Machine) -> None:
    assert machine.service.admit(update((1.0, 1.0))[0]) == parameters(2)


def test_a_creation_is_admitted_without_a_table(machine: Machine) -> None:
    for shard in ("1/gradient", "1/state-0"):
        assert machine.service.admit(creation((1.0,), shard=shard)[0]) is None


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"shard": "2/weights"}, MalformedError),
        ({"shard": "1/secrets"}, MalformedError),
        ({"shard": "1/state-1"}, MalformedError),
        ({"shard": ""}, MalformedError),
        ({"replica": 1}, MalformedError),
        ({"operation": Operation.VALUE}, MalformedError),
        ({"operation": Operation.ACCRUED_GRADIENT}, MalformedError),
        ({"sequence": 0}, MalformedError),
        ({"incarnation": 9}, FencedError),
        ({"incarnation": 0}, FencedError),
        ({"shard": "1/gradient"}, NotFoundError),
    ],
)
def test_any_other_push_is_refused_by_its_header(
    machine: Machine, changes: dict[str, Any], kind: type[LayerwiseError]
) -> None:
    with pytest.raises(kind):
        machine.service.admit(replace(update((1.0, 1.0))[0], **changes))


def test_data_without_a_header_is_refused(machine: Machine) -> None:
    with pytest.raises(MalformedError, match="header"):
        machine.service.admit(None)


def test_pushes_are_counted_by_seat_and_outcome(machine: Machine) -> None:
    for sequence in (1, 1, 2):
        machine.service.push(*update((1.0, 2.0), sequence))
    seat = machine.tally.seat(1, 0)
    assert (seat.pushes, seat.duplicate_pushes, machine.tally.seat(1, 1).pushes) == (2, 1, 0)
    assert machine.contents() == [2.0, 4.0]


def test_a_push_of_buffers_alone_has_no_staleness(machine: Machine) -> None:
    table = lay_out([("moment", "float32", (2,), "buffer")])
    header, pieces = creation((0.0, 0.0), shard="1/optimizer")
    machine.service.push(replace(header, table=table), pieces)
    header, pieces = update((1.0, 1.0), shard="1/optimizer")
    assert machine.service.push(replace(header, table=table), pieces).applied
    seat = machine.tally.seat(1, 0)
    assert (seat.pushes, seat.staleness.total()) == (1, 0)


def test_a_lease_that_ends_while_its_push_lands_leaves_the_shard_as_it_was(machine: Machine) -> None:
    header, pieces = update((1.0, 1.0))

    @contextmanager
    def source(idle: memoryview) -> Iterator[Pieces]:
        yield pieces
        machine.roster.leave(1, Telemetry(), "")

    with pytest.raises(FencedError):
        machine.service.land(header, source)
    assert machine.contents() == [0.0, 0.0]
    assert machine.tally.seat(1, 0).pushes == 0


def test_pulls_are_counted_for_slaves_and_readers(machine: Machine) -> None:
    for incarnation in (0, 1, 1):
        machine.service.read(PullRequest("1/weights", incarnation)).release()
    assert (machine.tally.pulls, machine.tally.seat(1, 0).pulls) == (3, 2)
    with pytest.raises(FencedError):
        machine.service.read(PullRequest("1/weights", 9))
    with pytest.raises(NotFoundError):
        machine.service.read(PullRequest("2/weights"))
    assert machine.tally.pulls == 3
