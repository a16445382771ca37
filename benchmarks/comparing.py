"""Plays `layerwise compare`, for benchmarks that record its results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.by_hand import ROOT
from common.errors import RunFailedError


def play_comparison(command: Sequence[str], data: Path, out: Path, jobs: int) -> dict[str, Any]:
    """Run the unfinished runs of a comparison, and return what it prints as JSON.

    Args:
        command: `compare` and its arguments, as a user types them, without the places of data and runs.
        data: folder or file of the data.
        out: folder for the runs.
        jobs: runs at a time.

    Raises:
        RunFailedError: the comparison failed.
    """
    place = ["--set", f"data.path={data.resolve()}", "--out", str(out), "--jobs", str(jobs), "--json"]
    arguments = [sys.executable, "-m", "deploy.cli", *command, *place]
    done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RunFailedError(f"layerwise {' '.join(command)} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
