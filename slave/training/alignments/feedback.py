"""`feedback` (FA; Lillicrap et al. 2016): back-propagation through fixed random weights.

The maps of every layer carry gradients down by weights of `common.models.feedback`; messages, waits and steps
are those of late gradients.
"""

from __future__ import annotations

from slave.training.parts import Parts
from slave.training.unlocks.delayed import DelayedUnlock, Late


def build(parts: Parts) -> DelayedUnlock:
    """Build the unlock of a layer below the top."""
    return DelayedUnlock(Late(parts.layer))
