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
        exact: whether the gradient is that of the forward, at its weights.
        shares: division of a step's multiply-adds, for the simulator.
    """

    recomputes: bool = False
    exact: bool = False
    shares: Divide = share_with_backward_later

    @property
    def mixes(self) -> bool:
        """Whether activations of the forward meet weights of the backward."""
        return not (self.recomputes or self.exact)


BACKWARDS = Registry(
    BackwardRow(
        name="recompute", help="forward again, at the present weights", recomputes=True,
        shares=share_with_recomputation,
    ),
    BackwardRow(name="stash", help="the graph is kept, with the weights of the forward", exact=True),
    BackwardRow(name="stored", help="the graph is kept, at the present weights"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CorrectionRow(Row):
    """Correction of a late gradient.

    Attributes:
        recomputes: whether the correction needs h at the present weights.
        optimizer: the only `optimizer.name` whose steps the correction changes; empty: any.
    """

    recomputes: bool = False
    optimizer: str = ""


CORRECTIONS = Registry(
    CorrectionRow(name="none", help="the gradient as it comes"),
    CorrectionRow(
        name="nesterov", help="nadam with more momentum the later a gradient is (AsyncPP)", optimizer="nadam"
    ),
    CorrectionRow(name="pipemare", help="smaller steps early in a run, and the forward's weights guessed"),
    CorrectionRow(name="predict", help="forward at the weights expected by the time of the step"),
    CorrectionRow(
        name="proximal", help="draws h back to the h that was sent, where the gradient is right",
        recomputes=True,
    ),
)  # fmt: skip
