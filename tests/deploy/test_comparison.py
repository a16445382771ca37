"""Tables of comparisons."""

from __future__ import annotations

from pathlib import Path

from common import strict_json
from common.config import files
from deploy.comparison.figures import draw
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


def test_metrics_of_units_have_columns_curves_and_plots_of_their_own(tmp_path: Path) -> None:
    variants = []
    for name, error in (("one", 30.0), ("other", None)):
        run = tmp_path / name
        run.mkdir()
        own = {} if error is None else {"unit_2_error_percent": error}
        metrics = {"error_percent": 50.0, **own}
        summary = {**SUMMARY_OF_A_RUN, "metrics": metrics, "test_loss": 0.5}
        (run / SUMMARY).write_text(strict_json.encode(summary))
        line = {"kind": "evaluation", "batches": 10, "seconds": 1.0, "metrics": metrics, "test_loss": 0.5}
        (run / "metrics.jsonl").write_text(strict_json.encode(line) + "\n")
        variant = Variant(name, name, files.load(None, []))
        variants.append(summarize_variant(variant, [Job(variant, 0, run)]))
    result = {"in": "driver", "variants": variants}
    assert [row[:4] for row in rows(result)] == [
        ["one", "50.00", "30.00", "0.5000"],
        ["other", "50.00", "-", "0.5000"],
    ]  # fmt: skip
    assert variants[0]["unit_curves"]["unit_2_error_percent"][0]["mean"] == 30
    titles = [each.title for each in draw(tmp_path / "plots", result)]
    assert "Test unit 2 error by batches" in titles
    assert (tmp_path / "plots" / "unit_2_error-by-batches-dark.png").stat().st_size > 1000


def test_a_variant_with_a_diverged_run_has_no_mean_loss(tmp_path: Path) -> None:
    variant = Variant("wild", "wild", files.load(None, []))
    summary = summarize_variant(
        variant, [job(variant, tmp_path, 0, 0.5), job(variant, tmp_path, 1, float("nan"))]
    )
    assert summary["test_loss"] == {"mean": None, "spread": None, "values": [0.5, None]}
    assert rows({"variants": [summary]}) == [
        ["wild", "50.00 ± 0.00", "diverged", "1,000", "0/1", "2/4"],
    ]  # fmt: skip
