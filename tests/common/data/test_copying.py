"""common.data.copying: episodes, streams and levels of the copying tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.tasks import IGNORED
from common.data.copying import (
    BLANK,
    COPY_VOCABULARY,
    END,
    MOST_STREAMS,
    REPEAT_VOCABULARY,
    REPEATS,
    TEST_STEPS,
    TEST_STREAMS,
    Episodes,
    Level,
    Stage,
    level_rows,
    pack,
)
from common.data.levels import MOST_LEVELS, Levels


def steps(episodes: Episodes, level: int, windows: int, streams: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and the targets of the first streams of a level, windows side by side."""
    read = (episodes.read(pack(level, window, np.arange(streams))) for window in range(windows))
    x, y = zip(*read, strict=True)
    return np.concatenate(x, 1), np.concatenate(y, 1)


@settings(max_examples=50)
@given(st.integers(0, 6), st.booleans(), st.integers(1, 7))
def test_a_stream_is_whole_episodes_one_after_the_other(number: int, repeats: bool, window: int) -> None:
    level = Level.of(number, repeats=repeats)
    x, y = steps(Episodes(window, repeats=repeats, seed=3), number, 2 + 4 * level.steps // window)
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


def test_windows_of_any_length_are_of_the_same_stream() -> None:
    short, long = (Episodes(window, repeats=False, seed=1) for window in (2, 10))
    np.testing.assert_array_equal(steps(short, 2, 5)[0], steps(long, 2, 1)[0])


def test_rows_of_several_levels_are_read_at_once_as_one_by_one() -> None:
    episodes = Episodes(5, repeats=True)
    rows = np.concatenate([pack(level, 7, np.array([2, MOST_STREAMS - 1])) for level in (0, 3, 119)])
    x, y = episodes.read(rows)
    assert x.dtype == y.dtype == np.int64
    for place, row in enumerate(rows):
        alone = episodes.read(row[None])
        np.testing.assert_array_equal(x[place], alone[0][0])
        np.testing.assert_array_equal(y[place], alone[1][0])
    assert 0 <= rows.min() <= rows.max() < len(episodes)


def test_seeds_levels_and_streams_differ_in_bits_and_phases() -> None:
    episodes = Episodes(40, repeats=False, seed=1)
    x, y = steps(episodes, 3, 1, streams=200)
    assert len({tuple(row) for row in x.tolist()}) == 200
    # Every phase is somewhere at a time, and bits are even.
    assert {*y[:, 0].tolist()} == {0, 1, END, IGNORED}
    assert np.mean(y[(y == 0) | (y == 1)]) == pytest.approx(0.5, abs=0.03)
    for other in (steps(episodes.seeded(2), 3, 1, 200), steps(episodes, 4, 1, 200)):
        assert not np.array_equal(other[0], x)


def test_levels_grow_by_a_bit_or_by_bits_and_repeats_in_turn() -> None:
    assert [Level.of(number, repeats=False) for number in (0, 1, 7)] == [Level(1), Level(2), Level(8)]
    seen = [Level.of(number, repeats=True) for number in range(5)]
    assert [(level.bits, level.repeats, level.length) for level in seen] == [
        (1, 1, 4), (2, 1, 5), (2, 2, 7), (3, 2, 9), (3, 3, 12),
    ]  # fmt: skip
    assert (Level(4).length, Level(4).steps) == (7, 10)


def test_tokens_fit_the_vocabularies_up_to_the_last_level() -> None:
    for repeats, vocabulary in ((False, COPY_VOCABULARY), (True, REPEAT_VOCABULARY)):
        episodes = Episodes(200, repeats=repeats)
        assert episodes.vocabulary == vocabulary
        assert steps(episodes, MOST_LEVELS - 1, 40, 8)[0].max() < vocabulary


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5))
def test_test_streams_begin_with_whole_episodes_and_hold_two_at_least(
    number: int, window: int, joined: int
) -> None:
    episodes = Episodes(window, repeats=False, aligned=True)
    rows = np.concatenate([*level_rows(episodes, number, joined)], 1)
    assert rows.shape[0] == TEST_STREAMS
    level = Level.of(number, repeats=False)
    assert rows.shape[1] * window >= max(TEST_STEPS, 2 * level.steps)
    tokens, targets = (part.reshape(TEST_STREAMS, -1) for part in episodes.read(rows.ravel()))
    np.testing.assert_array_equal(targets[:, level.bits + 1 : 2 * level.bits + 1], tokens[:, : level.bits])
    assert (targets[:, : level.bits + 1] == IGNORED).all()


def test_the_stage_of_a_network_is_the_level_of_its_last_batch_and_the_runs_longest_solved_length() -> None:
    levels = Levels((0, 300, 700), 900)
    for batches, level in ((0, 1), (300, 1), (301, 2), (700, 2), (800, 3)):
        assert Stage.of(levels, batches, repeats=False) == Stage(level, Level(2).length)
    assert Stage.of(Levels(), 150, repeats=False) == Stage(1, 0)
    assert Stage(3, 5).metrics == {"longest_solved": 5, "level": 3}
