"""master.seating: seats that are kept for slaves."""

from __future__ import annotations

from common.wire.messages import JoinRequest
from master.seating import Seating


def test_names_of_an_earlier_deal_are_no_slaves_that_have_given_their_seats_back() -> None:
    seating = Seating([1, 1])
    seating.keep_for({"a": 1.0, "b": 2.0}, {1: 1.0, 2: 3.0}, until=1.0)
    seating.close()
    assert seating.returning() == set()
    seating.leases[0].slave = JoinRequest("a")
    seating.keep(seating.leases[0])
    seating.close()
    assert seating.returning() == {"a"}
