"""summary.json: the results of a finished run."""

from __future__ import annotations

from typing import Any

from common.config.sections import Config
from common.observe.percentiles import percentiles
from common.wire.messages import Evaluation, StatusReply

SUMMARY = "summary.json"


def summarize(
    config: Config,
    status: StatusReply,
    evaluation: Evaluation,
    seconds: float,
    restarts: int,
    best: Evaluation | None = None,
) -> dict[str, Any]:
    """Build the summary of a run, the content of summary.json.

    Args:
        config: the run's configuration.
        status: the master's last status.
        evaluation: the last evaluation.
        seconds: time from the command's start to the end of the run.
        restarts: number of restarted processes.
        best: evaluation of the best model that is kept.
    """
    training = status.training_seconds or seconds
    seats = status.seats
    return {
        "name": config.run.name,
        "task": config.task.kind,
        "dataset": config.data.dataset,
        "model": config.network.model,
        "profile": config.cluster.profile,
        "synthesis": config.cluster.synthesis,
        "unlock": config.decoupling.unlock,
        "gradient": config.decoupling.gradient if config.decoupling.row.synthesizes else None,
        "alignment": config.decoupling.alignment if config.decoupling.aligned else None,
        "input": config.decoupling.input if config.decoupling.row.predicts else None,
        # Weights that were evaluated and saved.
        "average": config.run.average,
        "layers": config.layers,
        "slaves": len(seats),
        "batches": config.run.batches,
        "batch_size": config.run.batch_size,
        "wall_seconds": round(seconds, 3),
        "samples_per_second": round(config.run.batches * config.run.batch_size / training, 1),
        "test_error_percent": evaluation.test_error_percent,
        "test_loss": evaluation.test_loss,
        "metrics": config.order_metrics(evaluation.metrics),
        "best": best
        and {
            "batches": best.batches,
            "test_loss": best.test_loss,
            "metrics": config.order_metrics(best.metrics),
        },
        "staleness": percentiles(status.counters.staleness),
        "delay": percentiles(status.delays),
        "pushes": status.counters.pushes,
        "pulls": status.counters.pulls,
        # Without backups of optimizers and carried states, which are not a result.
        "versions": {name: at for name, at in status.versions.items() if not _is_backup(name)},
        "restarts": restarts,
        "lost_batches": status.lost_batches,
        "lost_states": status.lost_states,
        # First batch of each level; empty where examples do not become harder.
        "levels": status.curriculum.starts,
        "peak_rss_bytes": {
            "master": status.counters.peak_rss_bytes,
            "slaves": [seat.telemetry.peak_rss_bytes for seat in seats],
        },
        "cpu_seconds": {
            "master": round(status.counters.cpu_seconds, 3),
            "slaves": [round(seat.telemetry.cpu_seconds, 3) for seat in seats],
        },
        "waiting_fraction": {str(k): round(part, 5) for k, part in sorted(status.waiting_fraction.items())},
    }


def _is_backup(shard: str) -> bool:
    return shard.partition("/")[2].partition("-")[0] in ("optimizer", "state")
