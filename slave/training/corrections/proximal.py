"""`proximal`: a late gradient is right at the h that was sent, and the step must not lead far from there."""

from __future__ import annotations

import torch

from common.config.sections import Config
from common.optim.stepper import Adjustment
from common.signals.values import Signal, join, split
from slave.training.corrections import Correction

# Measured on language models in 2 to 8 layers: between 1 and 10 the results are alike.
STRENGTH = 3.0
# The change of h, as a part of h, from which on steps are shorter. Where training is calm, h changes by 0.03
# to 0.07 during a delay; a run that jumped had passed 0.1, twenty batches before.
RADIUS = 0.1
# Keeps a division by the size of an h of zeros finite.
EPSILON = 1e-12


class Proximal(Correction):
    """Adds the gradient of kappa / 2 |h_k(b) - h_k(b) as sent|^2 to delta_k(b), for each tensor.

    To first order the gradient at the present h is delta plus the curvature times the change of h since the
    forward. Delay compensation (Zheng et al. 2017) estimates the curvature in the weights; here it is one
    number, kappa = 3 |delta| / |h|, in h, where a layer moves whole groups of examples alike. A change as
    large as h itself weighs three times as much as delta, whatever the units of h and the loss are, and a
    larger one no more: the h that was sent may be zero. Without a change, as without a delay, nothing is
    added.

    The direction alone does not keep a layer near: an optimizer such as Adam steps as far for a small
    gradient as for a large one. So where h has changed by more than a tenth, the rate falls in proportion.
    """

    def __init__(self) -> None:
        # The largest change of a tensor of the latest batch.
        self._change = 0.0

    def correct(self, delta: Signal, sent: Signal, now: Signal, delay: int) -> Signal:  # noqa: ARG002
        """Return delta + kappa (h now - h sent), and note how far h has moved."""
        before, after = split(sent), split(now)
        drawn, changes = {}, []
        for name, each in split(delta).items():
            size, moved = before[name].norm().clamp(min=EPSILON), after[name] - before[name]
            way = moved.norm()
            changes.append(way / size)
            drawn[name] = torch.addcmul(each, moved, STRENGTH * each.norm() / torch.maximum(size, way))
        self._change = float(torch.stack(changes).max()) if changes else 0.0
        return join(drawn)

    def adjust(self, batch: int, delay: int) -> Adjustment:  # noqa: ARG002
        """Shorten the step by as much as h has moved further than the radius."""
        return Adjustment(rate=RADIUS / max(self._change, RADIUS))


def build(config: Config) -> Proximal:  # noqa: ARG001 - every correction is built so
    """Build the correction."""
    return Proximal()
