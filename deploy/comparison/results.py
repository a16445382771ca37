"""Results of a comparison: means and spreads over seeds, curves, and the table's rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common.config.tasks import unit_of
from common.observe import measures
from deploy.comparison.jobs import Job
from deploy.comparison.variants import Variant
from deploy.runs.metrics import EVALUATION, HEARTBEAT, read_metrics


def summarize_variant(variant: Variant, jobs: Sequence[Job]) -> dict[str, Any]:
    """Summarize a variant's runs: means and spreads over seeds, curves, and every run's summary."""
    summaries = [job.summary or {} for job in jobs]
    errors = {name: _spread([s[name] for s in summaries]) for name in ("test_error_percent", "test_loss")}
    first = summaries[0]
    metrics = {name: _spread([measures.of(s)[name] for s in summaries]) for name in measures.of(first)}
    metric = next(iter(metrics))
    return {
        "name": variant.name,
        "folder": variant.slug,
        **{name: first[name] for name in ("profile", "unlock", "gradient", "input", "layers", "slaves")},
        **errors,
        "metric": metric,
        "metrics": metrics,
        "samples_per_second": _spread([s["samples_per_second"] for s in summaries]),
        "staleness": _widest([s["staleness"] for s in summaries]),
        "delay": _widest([s["delay"] for s in summaries]),
        "curve": _curve([_evaluations(job, metric) for job in jobs]),
        "unit_curves": {
            name: _curve([_evaluations(job, name) for job in jobs]) for name in filter(unit_of, metrics)
        },
        "cosine": _curve([_cosines(job) for job in jobs]),
        "runs": [
            {"seed": job.seed, "summary": summary} for job, summary in zip(jobs, summaries, strict=True)
        ],
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Compute the mean, the sample's standard deviation (0 for a single run), and keep the values.

    Mean and deviation are null where a run diverged, whose loss is null.
    """
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return {"mean": None, "spread": None, "values": list(values)}
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return {"mean": statistics.fmean(numbers), "spread": spread, "values": numbers}


def _widest(runs: Sequence[dict[str, int]]) -> dict[str, int]:
    """Return the largest value over runs for every percentile."""
    return {name: max(run[name] for run in runs) for name in runs[0]}


def _evaluations(job: Job, metric: str) -> list[dict[str, float]]:
    return [
        {"batches": line["batches"], "seconds": line["seconds"], "value": value}
        for line in read_metrics(job.path)
        if line["kind"] == EVALUATION and (value := measures.of(line).get(metric)) is not None
    ]


def _cosines(job: Job) -> list[dict[str, float]]:
    """Average M's cosine over the layers with an M, for every report of a run."""
    reports: dict[float, list[dict[str, Any]]] = {}
    for line in read_metrics(job.path):
        if line["kind"] == HEARTBEAT and line["gradient_cosine"]:
            reports.setdefault(line["seconds"], []).append(line)
    return [
        {
            "batches": max(line["next_batch"] for line in lines),
            "seconds": seconds,
            "value": statistics.fmean(line["gradient_cosine"] for line in lines),
        }
        for seconds, lines in reports.items()
    ]


def _curve(runs: Sequence[Sequence[dict[str, float]]]) -> list[dict[str, float]]:
    """Merge the runs' curves: mean, lowest and highest value of the i-th points."""
    points = []
    for group in zip(*runs, strict=False):
        values = [point["value"] for point in group]
        means = {name: statistics.fmean(point[name] for point in group) for name in ("batches", "seconds")}
        low, high = min(values), max(values)
        points.append({**means, "mean": statistics.fmean(values), "low": low, "high": high})
    return points


def rows(result: dict[str, Any]) -> list[list[str]]:
    """List the rows of the table, best first: variant, metrics, loss, samples/s, staleness, delay."""
    own = unit_metrics(result)
    return [
        [
            variant["name"],
            _format(variant["metrics"][variant["metric"]], variant["metric"]),
            *(_format(variant["metrics"][name], name) if name in variant["metrics"] else "-" for name in own),
            measures.format_value("test_loss", variant["test_loss"]["mean"]),
            f"{variant['samples_per_second']['mean']:,.0f}",
            f"{variant['staleness']['p50']}/{variant['staleness']['p99']}" if variant["slaves"] else "-",
            f"{variant['delay']['p50']}/{variant['delay']['p99']}" if variant["slaves"] else "-",
        ]
        for variant in by_metric(result)
    ]


def by_metric(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sort the variants by the mean of the first metric, then of the loss, best first, diverged ones last."""

    def cost(variant: dict[str, Any]) -> tuple[float, float]:
        name = variant["metric"]
        value, loss = variant["metrics"][name]["mean"], variant["test_loss"]["mean"]
        first = math.inf if value is None else measures.cost(name, float(value))
        return first, math.inf if loss is None else float(loss)

    return sorted(result["variants"], key=cost)


def first_metric(result: Mapping[str, Any]) -> str:
    """Return the name of the first metric of the comparison's task."""
    return str(result["variants"][0]["metric"])


def unit_metrics(result: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics of units' own, over all variants."""
    return list(
        dict.fromkeys(name for each in result["variants"] for name in filter(unit_of, each["metrics"]))
    )


def _format(value: dict[str, Any], metric: str) -> str:
    if value["mean"] is None:
        return "diverged"
    form = measures.form(metric)
    mean = format(value["mean"], form)
    return f"{mean} ± {value['spread']:{form}}" if len(value["values"]) > 1 else mean
