"""Every batch has one owner in each layer, and partners are those who share a batch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.data.replicas import next_own, owner, partners

COUNTS = st.integers(1, 6)
WARM = st.integers(0, 9)


@given(st.integers(0, 50), COUNTS, WARM)
def test_the_next_own_batch_is_the_first_that_one_owns(batch: int, replicas: int, warm: int) -> None:
    for replica in range(replicas):
        expected = next(b for b in range(batch, 200) if owner(b, replicas, warm) == replica)
        assert next_own(batch, replica, replicas, warm) == expected


@given(COUNTS, COUNTS, WARM)
def test_partners_are_those_who_share_a_batch(own: int, other: int, warm: int) -> None:
    shared = {(owner(b, own, warm), owner(b, other, warm)) for b in range(warm, warm + own * other)}
    shared |= {(0, 0)}
    assert {(here, there) for here in range(own) for there in partners(here, own, other)} == shared
