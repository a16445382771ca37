"""Two networks with clocks of their own, each on a slave, as real processes."""

from __future__ import annotations

import shutil

import pytest

from tests.handwritten import write_mnist
from tests.integration.processes import QUICK, ROOT, Cli


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["light", "basic"])
def test_a_and_b_learn_on_slaves_of_their_own(cli: Cli, profile: str) -> None:
    write_mnist(cli.folder / "mnist")
    shutil.copytree(ROOT / "examples", cli.folder / "examples")
    shared, *_ = (cli.folder / "examples" / "two-clocks.toml").read_text().partition("[compare]")
    (cli.folder / "run.toml").write_text(shared)
    keys = [
        "data.path=mnist", f"cluster.profile={profile}", "decoupling.gradient=cdni", "run.batches=600",
        "run.evaluate_every=300", "network.options={width=32,message=8}", "optimizer.learning_rate=0.003",
    ]  # fmt: skip
    settings = [part for key in keys for part in ("--set", key)]
    summary = cli.json("train", "run.toml", *QUICK, *settings, "--run-dir", "run", "--json")
    assert summary["versions"].keys() == {"1/weights", "1/gradient", "1/time", "2/weights", "2/time"}
    assert summary["lost_states"] == summary["lost_batches"] == summary["restarts"] == 0
    # The most frequent count is right in 37 % of the cases.
    assert summary["metrics"]["unit_2_error_percent"] < 55
    measured = cli.json("evaluate", "run", "--json")
    assert measured["metrics"]["unit_2_loss"] == pytest.approx(summary["metrics"]["unit_2_loss"], rel=1e-4)
