"""Example of a user's data set: three spiral arms in the plane.

Use it with `--set data.dataset=examples/my_data.py:spirals`.
"""

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def spirals(arms: int = 3, examples: int = 3000) -> Arrays:
    """Return training points (N, 2) float and arms (N,) int, then test points and arms."""
    generator = np.random.default_rng(0)
    arm = generator.integers(arms, size=examples)
    radius = generator.uniform(0.1, 1.0, size=examples)
    angle = 4 * radius + 2 * np.pi * arm / arms + generator.normal(0, 0.1, size=examples)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    held_out = examples // 5
    return points[held_out:], arm[held_out:], points[:held_out], arm[:held_out]
