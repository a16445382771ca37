"""Every batch has one owner in each layer, and partners are those who share a batch."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.files import load
from common.data.replicas import BatchRoutes, far_seats, meet, next_own, owner, partners

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


@settings(max_examples=30)
@given(st.lists(COUNTS, min_size=2, max_size=5), st.booleans(), WARM)
def test_slaves_meet_whose_layers_are_neighbours_or_hear_layer_k_and_who_share_a_batch(
    counts: list[int], broadcasts: bool, warm: int
) -> None:
    warm *= max(counts) > 1
    way = "direct" if broadcasts else "feedback"
    config = load(
        None,
        [
            f"downpour.replicas={counts}", f"network.cuts={list(range(1, len(counts)))}",
            f"downpour.warm_start={warm}", "network.options={widths=[2, 2, 2, 2]}",
            "decoupling.unlock=alignment", f"decoupling.alignment={way}",
        ],
    )  # fmt: skip
    top = len(counts)
    seats = [(k, r) for k, count in enumerate(counts, 1) for r in range(count)]
    for one in seats:
        met = {other for other in seats if meet(one, other, counts, broadcasts=broadcasts)}
        far = {other for other in met if abs(one[0] - other[0]) > 1}
        assert far == set(far_seats(config, *one))
        assert not far or broadcasts
        assert all(top in (one[0], other[0]) for other in far)
        assert all(
            one in {o for o in seats if meet(other, o, counts, broadcasts=broadcasts)} for other in met
        )
    # Layer K tells whom it meets, and every layer below K - 1.
    for batch in range(20):
        here = (top, owner(batch, counts[-1], warm))
        told = BatchRoutes.of(config, *here).hearing(batch)
        assert [layer for layer, _ in told] == (list(range(1, top - 1)) if broadcasts else [])
        assert all(other in far_seats(config, *here) for other in told)
        assert all(replica == owner(batch, counts[layer - 1], warm) for layer, replica in told)
    assert BatchRoutes.of(config, 1, 0).hearing(0) == []
