"""Places of slaves by the speed of their machines and the work of the layers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.lease import Place
from master.placing import FASTER, HEAVIER, assign

PLACES: list[Place] = [(1, 0), (2, 0), (2, 1), (3, 0)]
FORMER = {(1, 0): "a", (2, 0): "b", (2, 1): "c", (3, 0): "d"}
WORK = {1: 1.0, 2: 8.0, 3: 2.0}


def test_slaves_of_one_speed_stay_where_they_are() -> None:
    for speeds in ({}, dict.fromkeys("abcd", 3.0), {"a": 12.0, "b": 10.0, "c": 11.0, "d": 9.7}):
        assert assign(PLACES, FORMER, [], speeds, WORK) == FORMER


def test_a_faster_machine_takes_the_layer_with_more_work() -> None:
    speeds = {"a": 40.0, "b": 10.0, "c": 20.0, "d": 10.0}
    found = assign(PLACES, FORMER, [], speeds, WORK)
    assert found == {(1, 0): "b", (2, 0): "a", (2, 1): "c", (3, 0): "d"}


def test_layers_of_like_work_change_no_slaves() -> None:
    speeds = {"a": 40.0, "b": 10.0, "c": 20.0, "d": 10.0}
    assert assign(PLACES, FORMER, [], speeds, dict.fromkeys((1, 2, 3), 5.0)) == FORMER


def test_the_fastest_spares_and_slaves_without_a_seat_take_the_new_seats() -> None:
    grown = [*PLACES, (2, 2)]
    assert assign(grown, FORMER, ["x", "y"], {"y": 2.0, "x": 1.0}, WORK)[2, 2] == "y"
    shrunk: list[Place] = [(1, 0), (1, 1), (2, 0), (3, 0)]
    assert assign(shrunk, FORMER, [], {}, WORK) == {(1, 0): "a", (1, 1): "c", (2, 0): "b", (3, 0): "d"}


@given(
    st.dictionaries(st.sampled_from("abcdxy"), st.floats(1, 100)),
    st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_every_seat_has_one_slave(speeds: dict[str, float], work: list[float]) -> None:
    by_layer = dict(enumerate(work, 1))
    found = assign([*PLACES, (3, 1)], FORMER, ["x", "y"], speeds, by_layer)
    assert len(set(found.values())) == len(found) == 5
    heaviest = max(by_layer, key=lambda k: by_layer[k])
    if all(by_layer[heaviest] >= HEAVIER * by_layer[k] for k in by_layer if k != heaviest):
        # No slave elsewhere is faster by far than the first of the layer with the most work.
        first = speeds.get(found[heaviest, 0]) or min(speeds.values(), default=1.0)
        others = [slave for (k, _), slave in found.items() if k != heaviest]
        assert all(speeds.get(slave, 0.0) < FASTER * first for slave in others)


def test_nobody_is_placed_where_nobody_is() -> None:
    assert assign(PLACES, {}, [], {}, WORK) == {}
    assert assign([(1, 0)], {}, ["x"], {}, {}) == {(1, 0): "x"}
    with pytest.raises(KeyError):
        assign(PLACES, {}, ["x"], {}, WORK)[1, 0]
