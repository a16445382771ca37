"""Tables of comparisons."""

from __future__ import annotations

from pathlib import Path

from common import strict_json
from common.config import files
from deploy.comparison.jobs import Job
from deploy.comparison.results import rows, summarize_variant
from deploy.comparison.variants import Variant
from deploy.runs.summary import SUMMARY

SUMMARY_OF_A_RUN = {
    "profile": "light", "unlock": "update", "gradient": "vfbn", "input": None, "layers": 3, "slaves": 3,
    "test_error_percent": 50.0, "metrics": {"error_percent": 50.0}, "samples_per_second": 1000.0,
    "staleness": {"p50": 0, "p99": 1}, "delay": {"p50": 2, "p99": 4},
}  # fmt: skip


def job(variant: Variant, folder: Path, seed: int, loss: float) -> Job:
    run = folder / str(seed)
    run.mkdir()
    (run / SUMMARY).write_text(strict_json.encode({**SUMMARY_OF_A_RUN, "test_loss": loss}))
    (run / "metrics.jsonl").touch()
    return Job(variant, seed, run)


def test_a_variant_with_a_diverged_run_has_no_mean_loss(tmp_path: Path) -> None:
    variant = Variant("wild", "wild", files.load(None, []))
    summary = summarize_variant(
        variant, [job(variant, tmp_path, 0, 0.5), job(variant, tmp_path, 1, float("nan"))]
    )
    assert summary["test_loss"] == {"mean": None, "spread": None, "values": [0.5, None]}
    assert rows({"variants": [summary]}) == [
        ["wild", "50.00 ± 0.00", "diverged", "1,000", "0/1", "2/4"],
    ]  # fmt: skip
