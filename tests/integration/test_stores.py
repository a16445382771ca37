"""A run whose shards are in stores, as real processes."""

from __future__ import annotations

import itertools

import pytest

from tests.integration.processes import QUICK, Cli

# One batch at a time: the stores change nothing that the numbers depend on.
SMALL = [
    *QUICK, "--set", "cluster.misses=50", "--set", "run.batches=200", "--set", "decoupling.unlock=none",
    "--set", "network.options={widths=[32]}",
]  # fmt: skip


def test_runs_with_stores_end_at_the_error_of_one_without(cli: Cli) -> None:
    without = cli.json("train", *SMALL, "--run-dir", "without", "--json")
    for count, profile in ((2, "light"), (4, "basic")):
        run = f"{profile}-{count}"
        settings = ["--set", f"cluster.profile={profile}", "--set", f"cluster.stores={count}"]
        summary = cli.json("train", *SMALL, *settings, "--run-dir", run, "--json")
        assert summary["test_error_percent"] == pytest.approx(without["test_error_percent"], abs=0.5)
        # Every shard was in a store, and every store had some.
        kept = [
            {path.name for path in (cli.folder / f"{run}/store-{n}/shards").iterdir()}
            for n in range(1, count + 1)
        ]
        assert all(kept)
        assert not list((cli.folder / run / "state/shards").iterdir())
        assert {f"{k}-weights.shard" for k in (1, 2)} <= {*itertools.chain(*kept)}
