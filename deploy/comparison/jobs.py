"""Jobs of a comparison: the run of a variant with a seed, in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.lifecycle import PARENT
from deploy import COMMAND
from deploy.comparison.variants import Variant
from deploy.runs.files import read_object
from deploy.runs.process_logs import open_log
from deploy.runs.summary import SUMMARY


@dataclass
class Job:
    """Run of a variant with a seed."""

    variant: Variant
    seed: int
    path: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def summary(self) -> dict[str, Any] | None:
        """Summary of the run, once finished.

        Raises:
            ConfigError: the file is torn.
        """
        path = self.path / SUMMARY
        return read_object(path, "remove the file to have the run trained again") if path.exists() else None

    @property
    def log(self) -> Path:
        """Path of the process' output."""
        return self.path.with_suffix(".log")

    def start(self, place: str, threads: int) -> None:
        """Start the run in a separate process, with output in a fresh log."""
        command = ["simulate", "--train"] if place == "driver" else ["train"]
        arguments = [*command, str(self.path.with_suffix(".toml")), "--run-dir", str(self.path), "--json"]
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, PARENT: str(os.getpid())}
        self.log.unlink(missing_ok=True)
        with open_log(self.log) as output:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # An interrupt at the terminal is for `compare`, which stops all jobs in order.
                start_new_session=True,
            )

    def name(self) -> str:
        """Name the job for people."""
        return f"{self.variant.name}, seed {self.seed}"
