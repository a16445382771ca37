"""`layerwise resize`, on a live master."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from common import strict_json
from common.text import answer
from common.wire.stages import ResizeReply
from deploy.evaluation.reader import Reader


def resize(
    master: str, replicas: Sequence[int], token: Path | None, as_json: bool, tls: Path | None = None
) -> int:
    """Ask the master for another number of replicas, and return the exit code."""
    with Reader(master, token, tls) as reader:
        reply = reader.resize(replicas)
    answer(strict_json.encode(dataclasses.asdict(reply)) if as_json else _line(reply))
    return 0


def _line(reply: ResizeReply) -> str:
    change, now = reply.resizing, _counts(reply.replicas)
    if not change.replicas:
        return f"replicas by layer: {now}; nothing changes"
    text = f"replicas by layer: {now}, then {_counts(change.replicas)}"
    if change.start:
        return f"{text} from batch {change.start:,} on"
    if change.missing:
        slaves = "1 more slave waits" if change.missing == 1 else f"{change.missing} more slaves wait"
        return f"{text}, once {slaves} for a layer"
    return f"{text}, from the first batch on that no slave has begun"


def _counts(replicas: Sequence[int]) -> str:
    return " ".join(map(str, replicas))
