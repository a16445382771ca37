"""A series of MNIST's digits with counts of the last digits, for examples/two_clocks.py."""

import gzip
from pathlib import Path

import numpy as np
from two_clocks_task import TICK  # type: ignore[import-not-found]

# Times that the training digits occur, each in an order of its own.
PASSES = 4


def digits(path: Path | None) -> list[np.ndarray]:
    """Return a series for training and one for tests, of the folder `data.path`; a row is a step.

    Images (N, 28, 28), and counts (N, 2): odd digits of the last 4, and 3s of the last 16.
    """
    if path is None:
        raise ValueError("give the folder of MNIST's four files by --set data.path=FOLDER")
    generator = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for part, passes in (("train", PASSES), ("t10k", 1)):
        images, labels = read(path, f"{part}-images-idx3"), read(path, f"{part}-labels-idx1")
        order = np.concatenate([generator.permutation(len(labels)) for _ in range(passes)])
        shown = labels[order]
        counts = [count_last(shown % 2 == 1, TICK), count_last(shown == 3, TICK**2)]
        arrays += [images[order], np.stack(counts, 1)]
    return arrays


def read(folder: Path, name: str) -> np.ndarray:
    """Read a file of MNIST, an array of bytes."""
    content = gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes())
    sizes = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def count_last(flags: np.ndarray, steps: int) -> np.ndarray:
    """Count the flags of the last steps, at each step: (N,)."""
    sums = np.concatenate([np.zeros(steps, np.int64), np.cumsum(flags)])
    counts: np.ndarray = sums[steps:] - sums[:-steps]
    return counts
