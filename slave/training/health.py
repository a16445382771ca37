"""What a layer knows of its own learning, and when it no longer trusts M. No clock: it counts batches."""

from __future__ import annotations

import torch
from torch import Tensor

# Losses and cosines are looked at every so many batches: that costs passes over h, and on a GPU a wait.
LOOK_EVERY = 8


class Health:
    """Running means over about the last fifty looks; each is zero until the first.

    Attributes:
        loss: of the layer, an example; where it has one of its own (the top, and `local`).
        gradient_loss: L_M, an example.
        gradient_cosine: between M's and the true gradient of a batch.
        gradient_norm_ratio: of M's gradient to the true one.
        input_loss: L_I, an example.
        fallback: the layer waits for true gradients, because M's are too poor.
    """

    def __init__(self, fallback: Fallback | None = None) -> None:
        self.loss = 0.0
        self.gradient_loss = 0.0
        self.gradient_cosine = 0.0
        self.gradient_norm_ratio = 0.0
        self.input_loss = 0.0
        self._fallback = fallback
        self._asked: dict[str, int] = {}

    @property
    def fallback(self) -> bool:
        """Whether the layer waits for true gradients."""
        return self._fallback is not None and self._fallback.active

    def lost(self, loss: Tensor, batch_size: int) -> None:
        """The layer's own loss, summed over a batch."""
        if self.looks("loss"):
            self._note("loss", float(loss.detach()) / batch_size)

    def learned(self, loss: Tensor | float, synthetic: Tensor, delta: Tensor) -> None:
        """M learned with this L_M on `delta`, for which it had said `synthetic`; told where it `looks`."""
        self._note("gradient_loss", float(loss))
        cosine, ratio = compared(synthetic, delta)
        self._note("gradient_cosine", cosine)
        self._note("gradient_norm_ratio", ratio)
        if self._fallback is not None:
            self._fallback.note(cosine)

    def learned_input(self, loss: Tensor | float) -> None:
        """I learned with this L_I."""
        if self.looks("input"):
            self._note("input_loss", float(loss))

    def looks(self, what: str) -> bool:
        """Whether it is time to look at something again."""
        asked = self._asked.get(what, 0)
        self._asked[what] = asked + 1
        return asked % LOOK_EVERY == 0

    def _note(self, name: str, value: float) -> None:
        old = getattr(self, name)
        setattr(self, name, value if old == 0.0 else old + 0.02 * (value - old))


def compared(synthetic: Tensor, delta: Tensor) -> tuple[float, float]:
    """Cosine between two gradients of a batch, and the ratio of their norms; zeros for a true one of zero."""
    flat, true = synthetic.flatten(), delta.flatten()
    products = torch.stack([flat @ true, flat @ flat, true @ true]).tolist()
    dot, own, norm = products[0], products[1] ** 0.5, products[2] ** 0.5
    return (dot / (own * norm) if own and norm else 0.0), (own / norm if norm else 0.0)


class Fallback:
    """Whether to step on M's gradients, or to wait for the true ones: by the running mean of M's cosine.

    The mean forgets with `MEMORY` looks. Under `threshold` the layer falls back; it comes back once the mean
    is clearly above it, a tenth or half of what is left to 1, so that noise at the threshold does not have it
    go to and fro. In the first `GRACE` looks it never falls back: M starts knowing nothing.
    """

    GRACE = 25
    MEMORY = 25

    def __init__(self, threshold: float) -> None:
        self.active = False
        self.mean = 0.0
        self._threshold = threshold
        self._recovery = threshold + min(0.1, (1 - threshold) / 2)
        self._looks = 0

    def note(self, cosine: float) -> None:
        """Take a look's cosine, -1..1."""
        self._looks += 1
        # A plain mean at first: the start, where M knew nothing, must not weigh more than what came since.
        self.mean += (cosine - self.mean) / min(self._looks, self.MEMORY)
        if self._looks >= self.GRACE:
            self.active = self.mean < (self._recovery if self.active else self._threshold)
