"""common.data.copying: episodes, streams and levels of the copying tasks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.tasks import IGNORED
from common.data.copying import BLANK, COPY_VOCABULARY, END, REPEAT_VOCABULARY, REPEATS, Level, Streams

LEVELS = st.builds(Level, st.integers(1, 5), st.none() | st.integers(1, 4))


def steps(streams: Streams, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and the targets of all streams, windows side by side."""
    x, y = zip(*(streams.batch(streams.start + b) for b in range(batches)), strict=True)
    return np.concatenate(x, 1), np.concatenate(y, 1)


@settings(max_examples=50)
@given(LEVELS, st.integers(1, 7), st.integers(0, 5))
def test_a_stream_is_whole_episodes_one_after_the_other(level: Level, window: int, start: int) -> None:
    x, y = steps(Streams(3, 4, window, level, start), 2 + 4 * level.steps // window)
    sign = END if level.repeats is None else REPEATS + level.repeats - 1
    for tokens, targets in zip(x.tolist(), y.tolist(), strict=True):
        first = tokens.index(sign) + level.given + 2
        starts = range(first, len(tokens) - level.steps + 1, level.steps)
        assert len(starts) >= 1
        for place in starts:
            episode, due = (row[place : place + level.steps] for row in (tokens, targets))
            bits = episode[: level.bits]
            assert set(bits) <= {0, 1}
            assert episode == [*bits, sign, *[BLANK] * (level.given + 1)]
            assert due == [*[IGNORED] * (level.bits + 1), *bits * (level.repeats or 1), END]


@settings(max_examples=20)
@given(LEVELS, st.integers(0, 100))
def test_a_batch_depends_on_seed_level_and_batch_alone(level: Level, batch: int) -> None:
    streams = Streams(7, 8, 5, level)
    for one, other in zip(streams.batch(batch), dataclasses.replace(streams).batch(batch), strict=True):
        assert one.shape == (8, 5)
        assert one.dtype == np.int64
        np.testing.assert_array_equal(one, other)
    later = dataclasses.replace(streams, start=40)
    np.testing.assert_array_equal(streams.batch(batch)[0], later.batch(batch + 40)[0])


def test_windows_of_any_length_are_of_the_same_stream() -> None:
    short, long = (Streams(1, 3, window, Level(3)) for window in (2, 10))
    np.testing.assert_array_equal(steps(short, 5)[0], long.batch(0)[0])


def test_seeds_levels_and_streams_differ_in_bits_and_phases() -> None:
    streams = Streams(1, 200, 40, Level(4))
    x, y = streams.batch(0)
    assert len({tuple(row) for row in x.tolist()}) == 200
    # Every phase is somewhere at a time, and bits are even.
    assert {*y[:, 0].tolist()} == {0, 1, END, IGNORED}
    assert np.mean(y[(y == 0) | (y == 1)]) == pytest.approx(0.5, abs=0.03)
    for other in (dataclasses.replace(streams, seed=2), dataclasses.replace(streams, level=Level(5))):
        assert not np.array_equal(other.batch(0)[0], x)


def test_levels_grow_by_a_bit_or_by_bits_and_repeats_in_turn() -> None:
    assert Level().harder() == Level(2)
    level, seen = Level(1, 1), []
    for _ in range(4):
        level = level.harder()
        seen.append((level.bits, level.repeats, level.length))
    assert seen == [(2, 1, 5), (2, 2, 7), (3, 2, 9), (3, 3, 12)]
    assert (Level(4).length, Level(4).steps) == (7, 10)


def test_tokens_fit_the_vocabularies() -> None:
    assert Streams(0, 50, 20, Level(2)).batch(0)[0].max() < COPY_VOCABULARY
    assert Streams(0, 50, 20, Level(2, 60)).batch(0)[0].max() < REPEAT_VOCABULARY
