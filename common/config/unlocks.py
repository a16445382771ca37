"""Registry of the unlocks: ways to stop waiting for neighbours.

The code that trains a layer under an unlock is `slave.training.unlocks.NAME`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from common.registry import Registry, Row

# Forward is a third of a training step, which has one product each for h, the weights' gradient and the
# input's gradient. The use and the learning of M divide alike.
FORWARD = 1 / 3


class Shares(NamedTuple):
    """Multiply-adds of a training step, divided among the moments of computing.

    Attributes:
        sent: from taking the input until h_k is sent.
        step: from taking the input until the layer is ready for the next input.
        answer: on the arrival of delta_k.
    """

    sent: float
    step: float
    answer: float


# Divides the multiply-adds of a layer's work and of M or a head.
Divide: TypeAlias = Callable[[float, float], Shares]


def share_at_once(work: float, synthesis: float) -> Shares:
    """Divide a step without a gradient from above: the layer's `work` and the `synthesis` of M or a head."""
    return Shares(work * FORWARD, work + synthesis, 0.0)


def _share_with_learning_later(work: float, synthesis: float) -> Shares:
    """Divide a step on M's gradient; M learns once delta_k arrives."""
    use = synthesis * FORWARD
    return Shares(work * FORWARD, work + use, synthesis - use)


def share_with_backward_later(work: float, synthesis: float) -> Shares:  # noqa: ARG001 - there is no M
    """Divide a step whose backward waits for delta_k."""
    forward = work * FORWARD
    return Shares(forward, forward, work - forward)


def share_with_recomputation(work: float, synthesis: float) -> Shares:  # noqa: ARG001 - there is no M
    """Divide a step taken at the arrival of delta_k, after a second forward with the present weights."""
    forward = work * FORWARD
    return Shares(forward, forward, work)


@dataclass(frozen=True, kw_only=True)
class UnlockRow(Row):
    """Unlock of the layers below the top.

    Attributes:
        synthesizes: whether layers have a gradient synthesizer M.
        predicts: whether layers have an input synthesizer I.
        supervises: whether layers have a head with a local loss in the place of M.
        sends_down: whether the layer below receives a gradient.
        waits: whether a layer steps only once delta_k arrives.
        aligns: whether gradients take the fixed ways of `decoupling.alignment`.
        window: batches that may be out without delta; None: `decoupling.in_flight`, or 2(K - k) + 1.
        slots: default number of mailbox slots, where messages may be lost and no layer waits; None: every
            message arrives.
        shares: division of a step's multiply-adds, for the simulator; None: as of `decoupling.backward`.
    """

    synthesizes: bool = False
    predicts: bool = False
    supervises: bool = False
    sends_down: bool = True
    waits: bool = False
    aligns: bool = False
    window: int | None = None
    slots: int | None = None
    shares: Divide | None = share_at_once


# Keys that every unlock with an M heeds.
_SYNTHESIS = (
    "gradient", "gradient_options", "in_flight", "step_probability", "synthesizer_every", "synthesizer_steps",
    "cluster.synthesis",
)  # fmt: skip

UNLOCKS = Registry(
    UnlockRow(
        name="none", help="back-propagation across slaves", waits=True, window=1,
        shares=share_with_backward_later,
    ),
    UnlockRow(
        name="update", help="no wait for the gradient, which M predicts",
        heeds=(*_SYNTHESIS, "mix_true", "fallback_cosine"), synthesizes=True,
        shares=_share_with_learning_later,
    ),
    UnlockRow(
        name="full", help="the same, and no wait for the input, which I predicts",
        heeds=(*_SYNTHESIS, "input", "input_options", "lead"), synthesizes=True, predicts=True,
        # A message that waits longer is older than the messages that a layer could learn from instead.
        slots=4,
    ),
    UnlockRow(
        name="delayed", help="true gradients, some batches late",
        heeds=("in_flight", "shrink", "backward", "correction"), waits=True, shares=None,
    ),
    UnlockRow(
        name="local", help="a head and a loss a layer",
        heeds=("gradient_options", "in_flight", "synthesizer_steps"), supervises=True, sends_down=False,
    ),
    UnlockRow(
        name="alignment", help="gradients that come down by fixed, random ways",
        heeds=("alignment", "in_flight"), waits=True, aligns=True, shares=share_with_recomputation,
    ),
)  # fmt: skip
