"""Example of a regression's data: is one of scikit-learn's digits odd, as a number?

Use it with `--set data.dataset=examples/digits_odd.py:odd --set task.kind=regression`.
"""

import numpy as np
from sklearn.datasets import load_digits

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def odd() -> Arrays:
    """Return training images (N, 64) and numbers (N,), 1 for an odd digit and else -1; then those to test."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), np.where(digits.target % 2, 1, -1).astype(np.float32)
    return x[:1437], y[:1437], x[1437:], y[1437:]
