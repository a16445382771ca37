"""A run whose shards are in stores, as real processes."""

from __future__ import annotations

import pytest

from tests.integration.processes import QUICK, Cli

# One batch at a time: the stores change nothing that the numbers depend on.
SMALL = [
    *QUICK, "--set", "cluster.misses=50", "--set", "run.batches=200", "--set", "decoupling.unlock=none",
    "--set", "network.options={widths=[32]}",
]  # fmt: skip


def test_runs_with_stores_end_at_the_error_of_one_without(cli: Cli) -> None:
    without = cli.json("train", *SMALL, "--run-dir", "without", "--json")
    for profile in ("light", "basic"):
        settings = ["--set", f"cluster.profile={profile}", "--set", "cluster.stores=2"]
        summary = cli.json("train", *SMALL, *settings, "--run-dir", profile, "--json")
        assert summary["test_error_percent"] == pytest.approx(without["test_error_percent"], abs=0.5)
        # Every shard was in a store, and both had some.
        kept = [
            {path.name for path in (cli.folder / f"{profile}/store-{n}/shards").iterdir()} for n in (1, 2)
        ]
        assert all(kept)
        assert not list((cli.folder / profile / "state/shards").iterdir())
        assert {f"{k}-weights.shard" for k in (1, 2)} <= kept[0] | kept[1]
