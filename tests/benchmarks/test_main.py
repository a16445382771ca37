"""`python -m benchmarks`: one way to each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.__main__ import ASKING, PLAIN
from tests.integration.processes import ROOT


def _benchmarks(*arguments: str, path: str = "/nowhere") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT, env={"PATH": path}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_every_module_that_measures_has_its_name() -> None:
    modules = [path for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__main__"]
    measuring = {path.stem for path in modules if "\ndef main(" in path.read_text(encoding="utf-8")}
    assert measuring == {*PLAIN, *ASKING}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["linsk"], "linsk: is not a benchmark"),
        (["transfer", "--rounds"], "transfer: takes no options"),
        (["links", "--mnist", "/nowhere"], "--mnist /nowhere: is not a folder"),
        (["links", "--rounds"], "unrecognized arguments: --rounds"),
        (["cluster", "--mnist", "/nowhere"], "--mnist /nowhere: is not a folder"),
        (["cluster", "--table", "--out", "/nowhere"], "there is no /nowhere; run the benchmark first"),
        (["straggler", "--mnist", "/nowhere"], "--mnist /nowhere: is not a folder"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments: list[str], said: str) -> None:
    done = _benchmarks(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_links_says_what_it_lacks() -> None:
    done = _benchmarks("links")
    assert done.returncode == 3
    assert "root" in done.stderr or "iproute2" in done.stderr
