"""The table of methods on sequences is held to the file of results."""

from __future__ import annotations

import json

from tests.integration.processes import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "shakespeare-methods.json"


def test_the_table_of_sequences_has_the_figures_of_the_results() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    variants = json.loads(RESULTS.read_text(encoding="utf-8"))["variants"]
    assert len(variants) == 13
    for variant in variants:
        perplexity, bits = (variant["metrics"][name] for name in ("perplexity", "bits_per_token"))
        assert len(bits["values"]) == 3
        assert (
            f"| {variant['name']} | {perplexity['mean']:.1f} ± {perplexity['spread']:.1f} | "
            f"{bits['mean']:.3f} ± {bits['spread']:.3f} |"
        ) in page
