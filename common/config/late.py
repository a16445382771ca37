"""Registries of unlock `delayed`: weights of a late backward, and corrections of late gradients.

The code is in `slave.training.backwards` and `slave.training.corrections`.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.config.unlocks import Divide, share_with_backward_later, share_with_recomputation
from common.registry import Registry, Row


@dataclass(frozen=True, kw_only=True)
class BackwardRow(Row):
    """Backward of a batch whose gradient comes after further steps.

    Attributes:
        recomputes: whether h is computed again before the backward.
        shares: division of a step's multiply-adds, for the simulator.
    """

    recomputes: bool = False
    shares: Divide = share_with_backward_later


BACKWARDS = Registry(
    BackwardRow(
        name="recompute", help="forward again, at the present weights", recomputes=True,
        shares=share_with_recomputation,
    ),
    BackwardRow(name="stash", help="the graph is kept, with the weights of the forward"),
    BackwardRow(name="stored", help="the graph is kept, at the present weights"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CorrectionRow(Row):
    """Correction of a late gradient.

    Attributes:
        recomputes: whether the correction needs h at the present weights.
    """

    recomputes: bool = False


CORRECTIONS = Registry(
    CorrectionRow(name="none", help="the gradient as it comes"),
    CorrectionRow(
        name="proximal", help="draws h back to the h that was sent, where the gradient is right",
        recomputes=True,
    ),
)  # fmt: skip
