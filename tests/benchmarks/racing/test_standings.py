"""What the rows of a race say: target, seconds to it, ratios, tables."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.racing import standings
from benchmarks.racing.standings import choose_target, is_beyond, rate, ratios, reach, smooth, table

FALLING = [(0, 0.0, 2.0), (100, 1.0, 1.0), (200, 2.0, 0.8), (300, 3.0, 0.5), (400, 4.0, 0.4)]


def _row(seconds: float, *, reached: bool = True, **more: Any) -> dict[str, Any]:
    """A row whose loss falls on a line to 0, or to 1.5 where the target is not reached."""
    low = 0.0 if reached else 1.5
    curve = [(100 * i, seconds * i / 4, 2 - (2 - low) * i / 4) for i in range(5)]
    values = {"curve": curve, "fits": True, "seconds": seconds, "examples_per_second": 400 / seconds}
    return {**values, "examples": 400, "bytes": 800_000, "peak_mib": {"rank-0": 100.0}, **more}


def test_the_target_is_one_threads_loss_after_three_quarters_of_its_run() -> None:
    assert choose_target(FALLING) == 0.5
    assert reach(FALLING, 0.5) == (300, 3.0)


def test_a_single_good_look_reaches_no_target() -> None:
    lucky = [(0, 0.0, 2.0), (100, 1.0, 0.1), (200, 2.0, 1.8), (300, 3.0, 1.0), (400, 4.0, 0.9)]
    assert [loss for *_, loss in smooth(lucky)] == [2.0, 1.8, 1.0, 1.0, 0.9]
    assert reach(lucky, 0.5) is None


@pytest.mark.parametrize(
    ("target", "reached"),
    [(1.5, (50, 0.5)), (0.9, (150, 1.5)), (0.4, (400, 4.0)), (0.3, None), (3.0, (0, 0.0))],
)
def test_between_two_looks_the_loss_is_on_a_line(target: float, reached: tuple[float, float] | None) -> None:
    assert reach(FALLING, target) == (pytest.approx(reached) if reached else None)


def test_a_curve_without_looks_reaches_nothing() -> None:
    assert reach([], 1.0) is None
    assert standings.seconds_to({"fits": False}, 1.0) is None


def test_looks_long_after_the_target_are_of_no_interest() -> None:
    long = [(100 * i, float(i), 1 / (i + 1)) for i in range(20)]
    assert not is_beyond(long[:10], 0.2)
    assert is_beyond(long[:11], 0.2)
    # What was reached stays where it was.
    assert reach(long[:11], 0.2) == reach(long, 0.2)


def test_a_rate_leaves_out_the_first_tenth() -> None:
    assert rate([(10, 5.0), (100, 6.0), (500, 8.0), (1000, 10.0)]) == 225.0
    assert rate([]) is None
    assert rate([(10, 1.0)]) is None


def test_ratios_are_to_the_best_rival_that_gets_there() -> None:
    turn = {
        "one-thread": _row(8.0), "ddp": _row(4.0), "diloco-50": {"fits": False}, "delayed": _row(2.0),
        "asyncpp-2": _row(1.0, reached=False), "update": _row(1.0, reached=False),
    }  # fmt: skip
    found = ratios(turn, 1.0)
    assert found["delayed"] == pytest.approx(0.5)
    assert found["one-thread"] == pytest.approx(2.0)
    assert found["ddp"] == 1.0
    assert found["diloco-50"] is found["asyncpp-2"] is found["update"] is None
    assert ratios({"delayed": _row(2.0)}, 1.0) == {"delayed": None}


def test_the_table_has_medians_of_the_rounds_and_says_what_was_not_reached() -> None:
    rounds = [
        {"ddp": _row(4.0), "delayed": _row(2.0 * turn), "update": _row(9.0, reached=False),
         "diloco-50": {"fits": False}}
        for turn in (1, 2, 3)
    ]  # fmt: skip
    lines = table(rounds, 1.0).splitlines()
    assert lines[0].count("|") == lines[2].count("|")
    assert (
        "| `ddp` | 100 (100 to 100) | 2.0 (2.0 to 2.0) | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 2.00) | 100 |"
        in lines
    )
    ours = "| **`delayed`** | 100 (83 to 150) | 2.0 (1.5 to 2.5) | 1.00 (0.75 to 1.25) |"
    assert f"{ours} 2.00 (2.00 to 2.00) | 100 |" in lines
    assert "| **`update`** | 44 (44 to 44) | not in 9 | - | 2.00 (2.00 to 2.00) | 100 |" in lines
    assert "| `diloco-50` | does not fit | does not fit | - | - | - |" in lines
    assert "| `ddp` | 100 | 2.0 | 1.00 | 2.00 | 100 |" in table(rounds[:1], 1.0)


def test_bytes_that_are_not_counted_are_left_out_and_every_process_has_its_peak() -> None:
    rows = [
        {"delayed": _row(2.0, bytes=None, peak_mib={"master-0": peak, "slave-1": 300.0})}
        for peak in (90.0, 120.0)
    ]
    assert "| - | - | 120, 300 |" in table(rows, 1.0)
