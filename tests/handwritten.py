"""MNIST's four files with the digits of scikit-learn, for tests that shall not need MNIST."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def write_mnist(folder: Path, tests: int = 297) -> Path:
    """Write the files into a folder: digits of 24 x 24 pixels in a frame of 28 x 28."""
    folder.mkdir(exist_ok=True)
    found = load_digits()
    images = np.kron(found.images * 15.9, np.ones((1, 3, 3))).astype(np.uint8)
    images, labels = np.pad(images, ((0, 0), (2, 2), (2, 2))), found.target.astype(np.uint8)
    for part, rows in (("train", slice(tests, None)), ("t10k", slice(0, tests))):
        for kind, array in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            head = np.array([0x800 + array.ndim, *array.shape], ">i4").tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), 1))
    return folder
