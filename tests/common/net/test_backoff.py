"""common.net.backoff: bounds of delays, patience, and errors that no waiting heals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FencedError, UnreachableError
from common.net.backoff import Backoff

AWAY = UnreachableError("away")
DRAWS = st.floats(0.0, 1.0, exclude_max=True)


@given(st.lists(DRAWS, min_size=1, max_size=40), st.floats(1e-3, 1.0), st.floats(1.0, 10.0))
def test_delays_double_within_their_jitter_up_to_the_longest(
    draws: list[float], first: float, longest: float
) -> None:
    waiting = iter(draws)
    backoff = Backoff(lambda: 0.0, lambda: next(waiting), first=first, longest=longest)
    for attempt in range(len(draws)):
        doubled = min(first * 2**attempt, longest)
        assert 0.5 * doubled <= backoff.next_delay() <= 1.5 * doubled


@given(st.lists(st.floats(0.0, 5.0), max_size=40), st.floats(0.0, 20.0))
def test_a_failure_is_final_exactly_when_patience_has_passed_since_the_first_in_a_row(
    pauses: list[float], patience: float
) -> None:
    now = 100.0
    backoff = Backoff(lambda: now, lambda: 0.5, patience=patience)
    backoff.delay_after(AWAY)
    for pause in pauses:
        now += pause
        if now - 100.0 > patience:
            with pytest.raises(UnreachableError):
                backoff.delay_after(AWAY)
        else:
            assert backoff.delay_after(AWAY) > 0


@given(st.integers(1, 20))
def test_a_success_begins_patience_and_delays_anew(failures: int) -> None:
    now = 0.0
    backoff = Backoff(lambda: now, lambda: 0.5, first=0.1, patience=10.0)
    for _ in range(failures):
        backoff.delay_after(AWAY)
    now = 11.0
    with pytest.raises(UnreachableError):
        backoff.delay_after(AWAY)
    backoff.reset()
    assert backoff.delay_after(AWAY) == pytest.approx(0.1)
    now = 20.0
    assert backoff.delay_after(AWAY) == pytest.approx(0.2)


def test_an_error_that_time_does_not_heal_is_final_at_once() -> None:
    with pytest.raises(FencedError):
        Backoff(lambda: 0.0, lambda: 0.5, patience=10.0).delay_after(FencedError("old"))
