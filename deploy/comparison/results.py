"""Results of a comparison: means and spreads over seeds, curves, and the table's rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from deploy.comparison.jobs import Job
from deploy.comparison.variants import Variant
from deploy.runs.directory import metrics_of


def summed(variant: Variant, jobs: Sequence[Job]) -> dict[str, Any]:
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
