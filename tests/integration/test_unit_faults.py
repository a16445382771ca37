"""A user's unit that fails or hangs in the middle of a run, in real processes."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.integration.processes import QUICK, Cli, until

pytestmark = pytest.mark.slow

# Units 1 and 3 are fine; unit 2 misbehaves from its 20th forward in training on.
NETWORK = """
import time

from torch import nn


class Faulty(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.seen = 0

    def forward(self, x):
        self.seen += self.training
        if self.seen > 20:
            self.fail()
        return self.linear(x)

    def fail(self):
        BODY


def build():
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 16)), Faulty(), nn.Linear(16, 10)]
"""


def write_network(cli: Cli, body: str) -> list[str]:
    """Write the network; the arguments of a run that trains it."""
    (cli.folder / "faulty.py").write_text(NETWORK.replace("BODY", body), encoding="utf-8")
    settings = ["network.model=faulty.py:build", "run.batches=5000"]
    return [*QUICK, *(part for setting in settings for part in ("--set", setting)), "--run-dir", "run"]


@pytest.mark.parametrize("profile", ["light", "synchronous"])
def test_a_unit_that_raises_in_the_middle_ends_the_run_with_a_line_that_names_its_place(
    cli: Cli, profile: str
) -> None:
    arguments = write_network(cli, "raise ValueError(f'only {self.seen} forwards')")
    layers = "cluster.profile=synchronous" if profile == "synchronous" else "network.layers=3"
    done = cli.run("train", *arguments, "--set", layers)
    assert done.returncode == 4
    said = done.stderr.strip().splitlines()[-1]
    assert re.search(r"layer 2, batch \d\d: unit 2 \(Faulty\(", said)
    assert "raised ValueError" in said
    assert "only 21 forwards" in said
    assert f"({cli.folder}/faulty.py:{_line('BODY')})" in said
    assert "Traceback" not in done.stderr
    assert done.stderr.count("restarting it") == (profile == "light")


def _line(text: str) -> int:
    return next(number for number, line in enumerate(NETWORK.splitlines(), 1) if text in line)


def test_a_unit_that_never_returns_is_named_by_train_and_status_and_holds_up_no_interrupt(cli: Cli) -> None:
    process = cli.start("train", *write_network(cli, "time.sleep(1e6)"))
    said = cli.wait_for(process, "stands still", "stderr")
    assert "layer 2" in said
    assert "neither waits nor ends a batch; look at the slave's log and machine; if it hangs" in said
    address = until(lambda: (cli.folder / "run" / "state" / "address").read_text())
    problems = json.loads(cli.run("status", "--master", address, "--json").stdout)["problems"]
    assert any("layer 2" in problem["what"] for problem in problems)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
