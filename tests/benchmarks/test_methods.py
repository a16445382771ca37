"""What is kept of comparisons, and that the page of results has its tables."""

from __future__ import annotations

import pytest

from benchmarks import methods
from benchmarks.methods import CASES, ExampleRun
from common.errors import ConfigError
from tests.integration.processes import ROOT

SUMMARY = {
    "test_error_percent": 1.23456, "unlock": "update", "gradient": "vfbn", "input": None, "layers": 3,
    "batches": 10, "batch_size": 4, "profile": "light", "lost_batches": 0, "delay": {"p50": 1},
    "wall_seconds": 7.0,
}  # fmt: skip


def _result(*names: str, seeds: int = 1) -> dict[str, object]:
    return {
        "variants": [
            {"name": name, "runs": [{"seed": seed, "summary": SUMMARY} for seed in range(seeds)]}
            for name in names
        ]
    }


def test_a_row_a_run_is_kept_with_the_command() -> None:
    found = methods.select(ExampleRun("some", ("--in", "cluster")), _result("vfbn", "cdni", seeds=2))
    assert found["command"] == "layerwise compare examples/some.toml --in cluster --set data.path=FOLDER"
    assert [(row["variant"], row["seed"]) for row in found["rows"]] == [
        ("vfbn", 0), ("vfbn", 1), ("cdni", 0), ("cdni", 1),
    ]  # fmt: skip
    assert found["rows"][0]["test_error_percent"] == 1.235
    assert "wall_seconds" not in found["rows"][0]


def test_the_tables_have_a_line_a_method() -> None:
    rows = [{"variant": "a", "test_error_percent": value} for value in (1.0, 2.0)]
    assert methods.table(rows).splitlines()[-1] == "| a | 1.50 | 1.00, 2.00 |"
    real = [
        {"variant": f"a, cluster.profile={profile}", "test_error_percent": value}
        for profile, value in (("light", 1.1), ("basic", 1.2))
    ]
    assert methods.side_by_side(rows[:1], real).splitlines()[-1] == "| a | 1.00 | 1.10 | 1.20 |"


def test_what_is_no_comparison_is_refused() -> None:
    with pytest.raises(ConfigError, match="mnist-metods: is not one of mnist-methods"):
        methods.main(["mnist-metods"])
    with pytest.raises(ConfigError, match="give the folder of MNIST"):
        methods.main(["mnist-conv"])


@pytest.mark.parametrize("name", [name for name in CASES if name != "mnist-cluster-driver"])
def test_the_page_of_results_has_the_last_table(name: str) -> None:
    assert methods.last_table(name) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
