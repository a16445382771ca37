"""deploy.simulation.clock and wires: the virtual clock and the simulated network."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.simulation import SimulationConfig
from deploy.simulation.clock import Clock
from deploy.simulation.wires import Link, Wires

BUSY = settings(max_examples=50)

times = st.floats(min_value=0, max_value=1e6, allow_nan=False)


@BUSY
@given(st.lists(times, max_size=50))
def test_events_happen_in_time_and_in_the_order_announced_at_one_time(announced: list[float]) -> None:
    clock, happened = Clock(), list[tuple[float, int]]()
    for number, when in enumerate(announced):
        clock.at(when, lambda number=number: happened.append((clock.now, number)))  # type: ignore[misc]
    while clock.advance():
        pass
    assert happened == sorted((when, number) for number, when in enumerate(announced))


@BUSY
@given(times, st.lists(times, max_size=20))
def test_what_is_announced_for_the_past_happens_now_and_time_never_goes_back(
    first: float, rest: list[float]
) -> None:
    clock, seen = Clock(), list[float]()

    def more() -> None:
        seen.append(clock.now)
        if rest:
            clock.at(rest.pop(), more)

    clock.at(first, more)
    while clock.advance():
        pass
    assert seen == sorted(seen)


sends = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 2), st.integers(0, 2), st.integers(1, 10**6)), max_size=40
)


@BUSY
@given(sends, st.floats(0, 0.5), st.floats(0, 1), st.integers(0, 99))
def test_a_link_takes_its_time_keeps_order_and_never_carries_more_than_its_bandwidth(
    sends: list[tuple[float, int, int, int]], loss: float, jitter: float, seed: int
) -> None:
    simulation = SimulationConfig(loss=loss, jitter=jitter, bandwidth_bytes_per_second=1e6)
    wires = Wires(simulation, random.Random(seed))
    links = [Link() for _ in range(3)]
    now, last = 0.0, dict[tuple[int, int], float]()
    received = [0.0, 0.0, 0.0]
    for pause, sender, receiver, nbytes in sends:
        now += pause
        arrived = wires.arrival(now, links[sender], links[receiver], nbytes)
        assert arrived > now + nbytes / 1e6
        assert arrived >= last.get((sender, receiver), 0.0)
        last[sender, receiver] = arrived
        received[receiver] += nbytes / 1e6
        assert links[receiver].down >= received[receiver] - 1e-9


@pytest.mark.parametrize("loss", [0.2, 0.6])
def test_as_many_are_lost_as_is_said(loss: float) -> None:
    wires = Wires(SimulationConfig(loss=loss), random.Random(0))
    assert sum(wires.lost() for _ in range(20000)) / 20000 == pytest.approx(loss, abs=0.02)
