"""Running means of a layer's learning, and its trust in M. No clock: time is counted in batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Every 8th loss and cosine is computed: each costs passes over h, and on a GPU a synchronization.
LOOK_EVERY = 8


class Health:
    """Running means over about the last fifty samples; every mean is zero before the first sample.

    Attributes:
        loss: loss of the layer per example, if it has a loss (the top layer, and `local`).
        gradient_loss: L_M per example.
        gradient_cosine: cosine between M's and the true gradient of a batch.
        gradient_norm_ratio: norm of M's gradient over the norm of the true gradient.
        input_loss: L_I per example.
        own_loss: losses of the layer's own units per example, the sum over the units.
        time_loss: loss of M in time per stream, in the state at a window's start.
        time_cosine: cosine between M in time's gradient and M's target there.
        time_norm_ratio: norm of M in time's gradient over the norm of the target.
        time_aux_loss: loss of the auxiliary head of M in time per stream.
        fallback: True while the layer waits for true gradients, because M's are too poor.
    """

    def __init__(self, fallback: Fallback | None = None) -> None:
        self.loss = 0.0
        self.gradient_loss = 0.0
        self.gradient_cosine = 0.0
        self.gradient_norm_ratio = 0.0
        self.input_loss = 0.0
        self.own_loss = 0.0
        self.time_loss = 0.0
        self.time_cosine = 0.0
        self.time_norm_ratio = 0.0
        self.time_aux_loss = 0.0
        self._fallback = fallback
        self._asked: dict[str, int] = {}

    @property
    def fallback(self) -> bool:
        """True while the layer waits for true gradients."""
        return self._fallback is not None and self._fallback.active

    def lost(self, loss: Tensor, batch_size: int) -> None:
        """Record the layer's own loss, summed over a batch."""
        if self.looks("loss"):
            self._note("loss", float(loss.detach()) / batch_size)

    def supervised(self, losses: Sequence[Tensor], batch_size: int) -> None:
        """Record the losses of the layer's own units, each summed over a batch."""
        if self.looks("own"):
            self._note("own_loss", sum(float(each.detach()) for each in losses) / batch_size)

    def learned(self, loss: Tensor | float, synthetic: Tensor, delta: Tensor) -> None:
        """Record L_M, and compare M's gradient `synthetic` with the true `delta`, if `looks` was True."""
        cosine = self._compare("gradient", loss, synthetic, delta)
        if self._fallback is not None:
            self._fallback.note(cosine)

    def learned_time(self, loss: Tensor | float, synthetic: Tensor, target: Tensor) -> None:
        """Record the loss of M in time, and compare M's gradient with the target, if `looks` was True."""
        self._compare("time", loss, synthetic, target)

    def learned_auxiliary(self, loss: Tensor, streams: int) -> None:
        """Record the loss of the auxiliary head, the sum over the streams, if `looks` was True for "time"."""
        self._note("time_aux_loss", float(loss.detach()) / streams)

    def learned_input(self, loss: Tensor | float) -> None:
        """Record L_I."""
        if self.looks("input"):
            self._note("input_loss", float(loss))

    def looks(self, what: str) -> bool:
        """Count a batch for `what`, and return True if the batch's value is to be computed."""
        asked = self._asked.get(what, 0)
        self._asked[what] = asked + 1
        return asked % LOOK_EVERY == 0

    def _compare(self, role: str, loss: Tensor | float, synthetic: Tensor, delta: Tensor) -> float:
        """Note the loss, the cosine and the ratio of norms of an M, and return the cosine."""
        self._note(f"{role}_loss", float(loss))
        cosine, ratio = compare(synthetic, delta)
        self._note(f"{role}_cosine", cosine)
        self._note(f"{role}_norm_ratio", ratio)
        return cosine

    def _note(self, name: str, value: float) -> None:
        old = getattr(self, name)
        setattr(self, name, value if old == 0.0 else old + 0.02 * (value - old))


def compare(synthetic: Tensor, delta: Tensor) -> tuple[float, float]:
    """Return cosine and ratio of norms of two gradients of one shape; zeros if the true one is zero."""
    flat, true = synthetic.flatten(), delta.flatten()
    products = torch.stack([flat @ true, flat @ flat, true @ true]).tolist()
    dot, own, norm = products[0], products[1] ** 0.5, products[2] ** 0.5
    return (dot / (own * norm) if own and norm else 0.0), (own / norm if norm else 0.0)


class Fallback:
    """Decision between M's and true gradients, by the running mean of M's cosine.

    The mean forgets with `MEMORY` samples. Below `threshold` the layer waits for true gradients, until the
    mean exceeds the threshold by 0.1, or by half of the distance to 1 if less: noise at the threshold causes
    no oscillation. The layer never falls back in the first `GRACE` samples, because M starts untrained.
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
        """Add the cosine, -1 to 1, of a sample."""
        self._looks += 1
        # A plain mean at first, so that the cosines of an untrained M do not dominate.
        self.mean += (cosine - self.mean) / min(self._looks, self.MEMORY)
        if self._looks >= self.GRACE:
            self.active = self.mean < (self._recovery if self.active else self._threshold)
