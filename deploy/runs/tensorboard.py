"""Lines of metrics.jsonl as scalars for TensorBoard; needs `layerwise[tensorboard]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from deploy.runs.metrics import EVALUATION, NOT_CURVES

FLUSH_SECONDS = 5


class Board:
    """Event file of a run. A step is a batch: the evaluation's, or the slave's at a heartbeat."""

    def __init__(self, path: Path) -> None:
        self._writer = SummaryWriter(str(path), flush_secs=FLUSH_SECONDS)

    def note(self, line: Mapping[str, Any]) -> None:
        """Add the scalars of a line."""
        if line["kind"] == EVALUATION:
            group, step = "test", line["batches"]
            values = {**line["metrics"], "loss": line["test_loss"]}
        else:
            group, step = f"layer {line['layer']} replica {line['replica']}", line["next_batch"]
            values = {name: value for name, value in line.items() if name not in NOT_CURVES}
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
