"""`layerwise compare`: every variant with every seed, each a process of its own; what is there is kept."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from common.errors import ConfigError, RunFailedError
from common.lifecycle import INTERRUPTED, PARENT, Interrupt
from deploy.runs import SUMMARY, metrics_of, new_directory
from deploy.variants import Comparison, Variant

RESULT, PAGE = "compare.json", "compare.html"
POLL_SECONDS, STOP_SECONDS = 0.1, 20.0


@dataclass
class Job:
    """One variant with one seed."""

    variant: Variant
    seed: int
    path: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def summary(self) -> dict[str, Any] | None:
        """Of the run, once it is finished."""
        path = self.path / SUMMARY
        if not path.exists():
            return None
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.path.with_suffix(".log")

    def start(self, place: str, threads: int) -> None:
        """Start the run in a process of its own."""
        command = ["simulate", "--train"] if place == "driver" else ["train"]
        arguments = [*command, str(self.path.with_suffix(".toml")), "--run-dir", str(self.path), "--json"]
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, PARENT: str(os.getpid())}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # An interrupt at the terminal is for `compare`, which stops all in order.
                start_new_session=True,
            )

    def name(self) -> str:
        """For a person."""
        return f"{self.variant.name}, seed {self.seed}"


class Comparing:
    """One call of `compare`.

    Args:
        comparison: what is run.
        place: "cluster", "driver" or "synchronous".
        jobs: runs side by side.
        out: where the results go; None for a new folder.
        as_json: whether compare.json is to be the only thing on standard output.
    """

    def __init__(
        self, comparison: Comparison, place: str, jobs: int, out: Path | None, as_json: bool
    ) -> None:
        self._comparison, self._place, self._side_by_side = comparison, place, jobs
        self._out = out or new_directory(f"compare-{comparison.name}")
        self._as_json = as_json
        self._stop = threading.Event()

    def run(self) -> int:
        """Run what is not there yet, then write the table, the plots and the page; the exit code.

        Raises:
            ConfigError: the folder holds results of other configurations.
            RunFailedError: a run failed; the others' results are kept.
        """
        with Interrupt(self._stop.set):
            jobs = self._prepared()
            if not self._run_all([job for job in jobs if job.summary is None]):
                click.echo(f"interrupted; go on with the same command and --out {self._out}", err=True)
                return INTERRUPTED
        result = self._result(jobs)
        self._write(result)
        if self._as_json:
            click.echo(json.dumps(result))
        else:
            _print(result)
            click.echo(f"results in {self._out}: {RESULT}, {PAGE}, plots/")
        return 0

    def _prepared(self) -> list[Job]:
        jobs = [
            Job(variant, variant.config.run.seed + n, self._out / variant.slug / f"seed-{n}")
            for n in range(self._comparison.seeds)
            for variant in self._comparison.variants
        ]
        for job in jobs:
            given = job.variant.seeded(job.seed - job.variant.config.run.seed).to_toml()
            # The place belongs to what was run as much as the configuration does.
            text = f"# in {self._place}\n{given}"
            file = job.path.with_suffix(".toml")
            if file.exists() and file.read_text(encoding="utf-8") != text:
                raise ConfigError(
                    f"--out {self._out}: holds {job.name()} with another configuration ({file}); give "
                    "another folder, or remove that one"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return jobs

    def _run_all(self, jobs: Sequence[Job]) -> bool:
        """Run them, so many at a time; False when interrupted."""
        waiting, running, count = list(jobs), list[Job](), 0
        threads = max(1, (os.cpu_count() or 1) // self._side_by_side)
        try:
            while waiting or running:
                while waiting and len(running) < self._side_by_side:
                    running.append(waiting.pop(0))
                    running[-1].start(self._place, threads)
                if self._stop.wait(POLL_SECONDS):
                    return False
                for job in [each for each in running if each.process and each.process.poll() is not None]:
                    running.remove(job)
                    count += 1
                    self._tell(job, count, len(jobs))
        finally:
            _end(running)
        return True

    def _tell(self, job: Job, count: int, of: int) -> None:
        summary = job.summary
        assert job.process is not None
        if summary is None:
            lines = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = lines[-1].removeprefix("layerwise: ") if lines else f"ended with {job.process.returncode}"
            raise RunFailedError(f"{job.name()} failed: {said} (see {job.log})")
        error, seconds = summary["test_error_percent"], summary["wall_seconds"]
        click.echo(f"{count}/{of}  {job.name()}: test error {error:.2f} %, {seconds:.0f} s", err=True)

    def _result(self, jobs: Sequence[Job]) -> dict[str, Any]:
        variants = [
            _summed(variant, [job for job in jobs if job.variant is variant])
            for variant in self._comparison.variants
        ]
        seeds = self._comparison.seeds
        return {"name": self._comparison.name, "in": self._place, "seeds": seeds, "variants": variants}

    def _write(self, result: dict[str, Any]) -> None:
        from deploy.comparison import draw
        from deploy.page import page

        (self._out / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        figures = draw(self._out / "plots", result)
        (self._out / PAGE).write_text(page(result, figures), encoding="utf-8")


def _end(running: Sequence[Job]) -> None:
    """Stop what still runs; a cluster is given the time to."""
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


def _summed(variant: Variant, jobs: Sequence[Job]) -> dict[str, Any]:
    """A variant's runs, and the mean and spread of what they came to."""
    summaries = [job.summary or {} for job in jobs]
    told = {name: _spread([s[name] for s in summaries]) for name in ("test_error_percent", "test_loss")}
    first = summaries[0]
    return {
        "name": variant.name,
        "folder": variant.slug,
        **{name: first[name] for name in ("profile", "unlock", "gradient", "input", "layers", "slaves")},
        **told,
        "samples_per_second": _spread([s["samples_per_second"] for s in summaries]),
        "staleness": _widest([s["staleness"] for s in summaries]),
        "delay": _widest([s["delay"] for s in summaries]),
        "curve": _curve([_evaluations(job) for job in jobs]),
        "cosine": _curve([_cosines(job) for job in jobs]),
        "runs": [
            {"seed": job.seed, "summary": summary} for job, summary in zip(jobs, summaries, strict=True)
        ],
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample; 0 for one run), and the values."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "spread": spread, "values": list(values)}


def _widest(found: Sequence[dict[str, int]]) -> dict[str, int]:
    """Of percentiles, the largest of any run."""
    return {name: max(each[name] for each in found) for name in found[0]}


def _evaluations(job: Job) -> list[dict[str, float]]:
    return [
        {"batches": line["batches"], "seconds": line["seconds"], "value": line["test_error_percent"]}
        for line in metrics_of(job.path)
        if line["kind"] == "evaluation"
    ]


def _cosines(job: Job) -> list[dict[str, float]]:
    """The cosine of M, the mean over the layers that have one, each time that they told of it."""
    told: dict[float, list[dict[str, Any]]] = {}
    for line in metrics_of(job.path):
        if line["kind"] == "heartbeat" and line["gradient_cosine"]:
            told.setdefault(line["seconds"], []).append(line)
    return [
        {
            "batches": max(line["next_batch"] for line in lines),
            "seconds": seconds,
            "value": statistics.fmean(line["gradient_cosine"] for line in lines),
        }
        for seconds, lines in told.items()
    ]


def _curve(runs: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """The runs' curves in one: their i-th points' means, and the lowest and highest value."""
    points = []
    for group in zip(*runs, strict=False):
        values = [point["value"] for point in group]
        means = {name: statistics.fmean(point[name] for point in group) for name in ("batches", "seconds")}
        low, high = min(values), max(values)
        points.append({**means, "mean": statistics.fmean(values), "low": low, "high": high})
    return points


def _print(result: dict[str, Any]) -> None:
    console = Console(file=sys.stdout, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    for title in ("error %", "loss", "samples/s", "staleness", "delay"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    clock = "; seconds are virtual" if result["in"] == "driver" else ""
    console.print(f"the mean ± deviation of {result['seeds']} seeds; staleness and delay as p50/p99{clock}")


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The table: variant, error, loss, samples/s, staleness, delay; the best first."""
    return [
        [
            each["name"],
            _told(each["test_error_percent"], ".2f"),
            f"{each['test_loss']['mean']:.4f}",
            f"{each['samples_per_second']['mean']:,.0f}",
            f"{each['staleness']['p50']}/{each['staleness']['p99']}" if each["slaves"] else "-",
            f"{each['delay']['p50']}/{each['delay']['p99']}" if each["slaves"] else "-",
        ]
        for each in ranked(result)
    ]


def ranked(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The variants, the lowest error first."""
    return sorted(result["variants"], key=lambda each: float(each["test_error_percent"]["mean"]))


def _told(value: dict[str, Any], form: str) -> str:
    mean = format(value["mean"], form)
    return f"{mean} ± {value['spread']:{form}}" if len(value["values"]) > 1 else mean
