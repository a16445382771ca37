"""Linear regression on synthetic gradients alone, with an exact line search for M's rate.

The simplest case of Czarnecki et al. (2017, proposition 4): h = x w, M(h, y) = a h + b y + c. Run it by
`python examples/line_search.py`: it prints the losses and draws line_search.png.
"""

import matplotlib.pyplot as plt
import numpy as np


def train(size: int, steps: int = 400, rate: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss and M's squared distance from the true gradient, (steps,), in `size` dimensions."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1000, size))
    y = x @ generator.normal(size=size) + 1.0
    x = np.concatenate([x, np.ones((1000, 1))], 1)
    w, m = np.zeros(size + 1), np.zeros(3)
    losses, distances = [], []
    for _ in range(steps):
        h = x @ w
        delta = h - y
        features = np.stack([h, y, np.ones(1000)], 1)
        residual = features @ m - delta
        losses.append(float(np.mean(delta**2) / 2))
        distances.append(float(np.mean(residual**2)))
        # The layer steps on M's gradient, and never sees the true one.
        w -= rate * x.T @ (features @ m) / 1000
        # M steps down its squared distance as far as that goes down on this line.
        slope = features.T @ residual
        along = features @ slope
        m -= slope * float(along @ residual) / max(float(along @ along), 1e-30)
    return np.array(losses), np.array(distances)


def main() -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for size in (2, 100):
        losses, distances = train(size)
        print(f"{size} dimensions: loss {losses[0]:.3g} -> {losses[-1]:.3g}")
        axes.semilogy(losses, label=f"{size} dimensions: loss")
        axes.semilogy(distances, "--", label=f"{size} dimensions: M's squared distance")
    axes.set(xlabel="steps", ylim=(1e-16, None))
    axes.legend()
    figure.savefig("line_search.png", dpi=110)


if __name__ == "__main__":
    main()
