"""The data of run.toml: three spiral arms in the plane. Return arrays of your own instead."""

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def load() -> Arrays:
    """Return train_x (N, ...), train_y (N,), test_x, test_y: labels count the classes from 0.

    Every process calls this function, so a split takes a fixed seed.
    """
    generator = np.random.default_rng(0)
    arm = generator.integers(3, size=6000)
    radius = generator.uniform(0.1, 1.0, size=len(arm))
    angle = 4 * radius + 2 * np.pi * arm / 3 + generator.normal(0, 0.1, size=len(arm))
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points[1000:], arm[1000:], points[:1000], arm[:1000]
