"""The tables of methods and optimizers on sequences are held to the files of results."""

from __future__ import annotations

import json

import pytest

from tests.integration.processes import ROOT

RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize(("name", "count"), [("shakespeare-methods", 13), ("shakespeare-optimizers", 8)])
def test_the_table_of_sequences_has_the_figures_of_the_results(name: str, count: int) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    variants = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["variants"]
    assert len(variants) == count
    for variant in variants:
        perplexity, bits = (variant["metrics"][name] for name in ("perplexity", "bits_per_token"))
        assert len(bits["values"]) == 3
        assert (
            f"| {variant['name']} | {perplexity['mean']:.1f} ± {perplexity['spread']:.1f} | "
            f"{bits['mean']:.3f} ± {bits['spread']:.3f} |"
        ) in page


def test_the_long_runs_on_the_page_have_the_figures_of_the_results() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    results = json.loads((RESULTS / "shakespeare-decoupled.json").read_text(encoding="utf-8"))
    for curve in results["bits_per_token"].values():
        *first, last = [f"{bits:.3f}" for _, bits in curve]
        assert f"{', '.join(first)} and {last}" in " ".join(page.split())
