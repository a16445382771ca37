"""Bits to be copied several times: streams of episodes that are made as they are read."""

from __future__ import annotations

from pathlib import Path

from common.config.data import DataConfig
from common.data.datasets import Dataset
from common.data.downloads import Source
from common.data.sets.copy import stream


def load(data: DataConfig, path: Path | None, source: Source | None) -> Dataset:  # noqa: ARG001 - no files
    """Return the streams, in windows of T = `data.steps` steps."""
    return stream(data, repeats=True)
