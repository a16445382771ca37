"""`layerwise compare`: run every variant with every seed, in separate processes; finished runs are kept."""

from __future__ import annotations

import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from common import strict_json
from common.cores import count_cores
from common.errors import ConfigError, RunFailedError
from common.lifecycle import INTERRUPTED, Interrupt
from common.observe import measures
from common.text import answer, say
from deploy.comparison.jobs import Job
from deploy.comparison.results import first_metric, rows, summarize_variant, unit_metrics
from deploy.comparison.variants import Comparison
from deploy.console import PlainConsole
from deploy.pages.page import COMPARISON_PAGE
from deploy.runs.directory import new_directory
from deploy.runs.files import lock_folder, read_text, write_file
from deploy.runs.process_logs import bound_log, last_line

RESULT = "compare.json"
POLL_SECONDS, STOP_SECONDS = 0.1, 20.0


class ComparisonRun:
    """A call of `compare`.

    Args:
        comparison: variants and seeds to run.
        place: "cluster", "driver" or "synchronous".
        jobs: number of runs at a time.
        out: folder for the results; None for a new one.

    Attributes:
        out: folder of the results.
    """

    def __init__(self, comparison: Comparison, place: str, jobs: int, out: Path | None) -> None:
        self._comparison, self._place, self._side_by_side = comparison, place, jobs
        self.out = out or new_directory(f"compare-{comparison.name}")
        self._stop = threading.Event()

    def stop(self) -> None:
        """Have `run` stop the running jobs and end; a signal handler may call this."""
        self._stop.set()

    def run(self) -> dict[str, Any] | None:
        """Run the unfinished jobs, write compare.json, the plots and the page, and return compare.json.

        Returns:
            None if stopped.

        Raises:
            ConfigError: the folder holds results of other configurations.
            RefusedError: another command works on the folder.
            RunFailedError: a run failed; results of finished runs are kept.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with lock_folder(self.out, "--out"):
            jobs = self._prepare()
            if not self._run_all([job for job in jobs if job.summary is None]):
                return None
            result = self._result(jobs)
            self._write(result)
        return result

    def _prepare(self) -> list[Job]:
        jobs = [
            Job(variant, variant.config.run.seed + n, self.out / variant.slug / f"seed-{n}")
            for n in range(self._comparison.seeds)
            for variant in self._comparison.variants
        ]
        for job in jobs:
            config = job.variant.with_seed(job.seed - job.variant.config.run.seed).to_toml()
            # The place of a run determines its result as much as the configuration does.
            text = f"# in {self._place}\n{config}"
            file = job.path.with_suffix(".toml")
            if file.exists() and read_text(file, "remove it") != text:
                raise ConfigError(
                    f"--out {self.out}: holds {job.name()} with another configuration ({file}); give "
                    "another folder, or remove this one"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, text.encode())
        return jobs

    def _run_all(self, jobs: Sequence[Job]) -> bool:
        """Run the jobs, a limited number at a time; False if interrupted."""
        waiting, running, count = list(jobs), list[Job](), 0
        threads = max(1, count_cores() // self._side_by_side)
        try:
            while waiting or running:
                while waiting and len(running) < self._side_by_side:
                    running.append(waiting.pop(0))
                    running[-1].start(self._place, threads)
                if self._stop.wait(POLL_SECONDS):
                    return False
                for job in running:
                    bound_log(job.log)
                for job in [each for each in running if each.process and each.process.poll() is not None]:
                    running.remove(job)
                    count += 1
                    self._report(job, count, len(jobs))
        finally:
            _stop(running)
        return True

    def _report(self, job: Job, count: int, of: int) -> None:
        summary = job.summary
        assert job.process is not None
        if summary is None:
            reason = last_line(job.log).removeprefix("layerwise: ")
            code = job.process.returncode
            raise RunFailedError(f"{job.name()} failed with exit code {code}: {reason} (see {job.log})")
        (metric, value), *_ = measures.of(summary).items()
        result = f"{measures.title(metric)} {measures.format_value(metric, value)}"
        say(f"{count}/{of}  {job.name()}: {result}, {summary['wall_seconds']:.0f} s")

    def _result(self, jobs: Sequence[Job]) -> dict[str, Any]:
        variants = [
            summarize_variant(variant, [job for job in jobs if job.variant is variant])
            for variant in self._comparison.variants
        ]
        seeds = self._comparison.seeds
        return {"name": self._comparison.name, "in": self._place, "seeds": seeds, "variants": variants}

    def _write(self, result: dict[str, Any]) -> None:
        from deploy.comparison.figures import draw
        from deploy.comparison.page import page

        write_file(self.out / RESULT, (strict_json.encode(result, indent=1) + "\n").encode())
        figures = draw(self.out / "plots", result)
        write_file(self.out / COMPARISON_PAGE, page(result, figures).encode())


def show(run: ComparisonRun, as_json: bool) -> int:
    """Run a comparison to the end or to an interrupt, print the result, and return the exit code.

    Args:
        run: the comparison.
        as_json: print compare.json, and nothing else, on standard output.
    """
    with Interrupt(run.stop):
        result = run.run()
    if result is None:
        say(f"interrupted; resume with the same command and --out {shlex.quote(str(run.out))}")
        return INTERRUPTED
    if as_json:
        answer(strict_json.encode(result))
    else:
        _print(result)
        answer(f"results in {run.out}: {RESULT}, {COMPARISON_PAGE}, plots/")
    return 0


def _stop(running: Sequence[Job]) -> None:
    """Stop the running jobs, with time to stop clusters in order."""
    for job in running:
        if job.process is not None:
            job.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for job in running:
        if job.process is not None:
            try:
                job.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()


def _print(result: dict[str, Any]) -> None:
    console = PlainConsole()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    metrics = map(measures.axis, [first_metric(result), *unit_metrics(result)])
    for title in (*metrics, "loss", "samples/s", "staleness", "delay"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    clock = "; seconds are virtual" if result["in"] == "driver" else ""
    console.print(f"mean ± deviation of {result['seeds']} seeds; staleness and delay as p50/p99{clock}")
