"""M over time, from the heartbeats of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.runs.metrics import HEARTBEAT, read_metrics

# Measures of M by their names in metrics.jsonl.
COSINE, NORM_RATIO, LOSS = "gradient_cosine", "gradient_norm_ratio", "gradient_loss"
MEASURES: Mapping[str, str] = {
    COSINE: "cosine with the gradient received",
    NORM_RATIO: "norm over that of the gradient received",
    LOSS: "squared distance from the gradient received",
}


def read_synthesis(folder: Path) -> dict[int, list[dict[str, float]]]:
    """Read M's running means by layer, one row a heartbeat; of several replicas the first.

    Layers without an M, and heartbeats before M's first lesson, are left out.
    """
    found: dict[int, list[dict[str, float]]] = {}
    for line in read_metrics(folder):
        if line["kind"] != HEARTBEAT or line["replica"] or not line.get(NORM_RATIO):
            continue
        row = {name: float(line[name]) for name in MEASURES if line.get(name) is not None}
        found.setdefault(int(line["layer"]), []).append({"batch": float(line["next_batch"]), **row})
    return dict(sorted(found.items()))
