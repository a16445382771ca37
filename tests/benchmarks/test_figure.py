"""README's figure is drawn from the stored results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import figure, records
from benchmarks.cluster import RESULTS


def test_the_figure_is_drawn_from_the_stored_results(tmp_path: Path) -> None:
    figure.draw(tmp_path / "figure.png", records.read(RESULTS))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert figure.FIGURE.exists()


def test_seconds_are_batches_to_the_target_over_the_median_rate() -> None:
    turns = [{"update basic": {"samples_per_second": rate}} for rate in (100.0, 200.0, 900.0)]
    job = {"batch_size": 10, "rounds": turns, "curves": {"update light": [[100, 4.0], [200, 2.0]]}}
    result = {"loopback": {"mlp": job}}
    assert figure.compute_seconds(result, "loopback", "update basic") == pytest.approx(150 * 10 / 200)
