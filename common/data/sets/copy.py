"""Bits to be copied: streams of episodes that are made as they are read."""

from __future__ import annotations

from pathlib import Path

from common.config.data import DataConfig
from common.data.copying import TEST_SEED, Episodes
from common.data.datasets import Dataset
from common.data.downloads import Source


def load(data: DataConfig, path: Path | None, source: Source | None) -> Dataset:  # noqa: ARG001 - no files
    """Return the streams, in windows of T = `data.steps` steps."""
    return stream(data, repeats=False)


def stream(data: DataConfig, *, repeats: bool) -> Dataset:
    """Return endless training streams, and test streams of the same tokens that all runs share."""
    train = Episodes(data.steps, repeats=repeats)
    test = Episodes(data.steps, repeats=repeats, seed=TEST_SEED, aligned=True)
    return Dataset(data.dataset, train, test, {}, train.vocabulary)
