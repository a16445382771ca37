"""The tables of methods and optimizers on sequences are held to the files of results."""

from __future__ import annotations

import json

import pytest

from tests.integration.processes import ROOT

RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize(
    ("name", "count", "seeds"),
    [("shakespeare-methods", 13, 3), ("shakespeare-optimizers", 8, 3), ("shakespeare-corrections", 12, 2)],
)
def test_the_table_of_sequences_has_the_figures_of_the_results(name: str, count: int, seeds: int) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    variants = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["variants"]
    assert len(variants) == count
    for variant in variants:
        perplexity, bits = (variant["metrics"][name] for name in ("perplexity", "bits_per_token"))
        assert len(bits["values"]) == seeds
        assert (
            f"| {variant['name']} | {perplexity['mean']:.1f} ± {perplexity['spread']:.1f} | "
            f"{bits['mean']:.3f} ± {bits['spread']:.3f} |"
        ) in page


def test_the_long_runs_on_the_page_have_the_figures_of_the_results() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    results = json.loads((RESULTS / "shakespeare-decoupled.json").read_text(encoding="utf-8"))
    assert len(results["seeds"]) == 3
    for seed, found in results["seeds"].items():
        curves = {name: [bits for _, bits in curve] for name, curve in found.items()}
        last = curves["back-propagation"][-1]
        for name, curve in curves.items():
            ratio = "" if name == "back-propagation" else f"{curve[-1] / last:.3f}"
            assert f"| {name} | {seed} | {' | '.join(f'{bits:.3f}' for bits in curve)} | {ratio} |" in page
        assert results["plain loop, 2,000 batches"][seed] == last
