"""M in the master, as a layer's unlock sees it: asked for a gradient, told the true one. No I/O."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from common.errors import MalformedError
from common.flat import packed, state_dict
from common.messages import SynthesisKind, SynthesisMessage
from slave.health import Health


class Serving(Protocol):
    """The master, as far as M goes."""

    def ask(self, question: SynthesisMessage) -> SynthesisMessage:
        """The answer to a question; may raise whatever ends the lease."""

    def tell(self, lesson: SynthesisMessage) -> None:
        """Tell what has no answer."""


class ServedSynthesizer:
    """M_k, which the master runs and all replicas of the layer share.

    Args:
        serving: what runs M.
        incarnation: of this slave's lease.
        classes: how many labels there are.
        health: what is known of M here.
    """

    def __init__(self, serving: Serving, incarnation: int, classes: int, health: Health) -> None:
        self._serving = serving
        self._incarnation = incarnation
        self._classes = classes
        self._health = health
        # L_M of the layer's last lesson, as the last answer told it.
        self._loss = 0.0

    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """M_k(h_k(b), y), shaped as h: waits for it.

        Raises:
            MalformedError: the answer is none to the question.
        """
        answer = self._serving.ask(self._said(SynthesisKind.ASK, batch, {"h": h, "y": y}))
        delta = state_dict(answer.table, answer.data).get("delta")
        if delta is None or delta.shape != h.shape:
            raise MalformedError(f"the master answered {answer.kind.name} of no delta for h {tuple(h.shape)}")
        self._loss = answer.loss
        return delta.to(h.device)

    def learn(self, batch: int, h: Tensor, y: Tensor, synthetic: Tensor, delta: Tensor) -> None:
        """Tell M the gradient that came for that h; it learns in its own time."""
        self._serving.tell(self._said(SynthesisKind.LEARN, batch, {"h": h, "y": y, "delta": delta}))
        self._health.learned(self._loss, synthetic, delta)

    def _said(self, kind: SynthesisKind, batch: int, tensors: dict[str, Tensor]) -> SynthesisMessage:
        table, data = packed(tensors)
        return SynthesisMessage(
            kind, "gradient", batch, self._incarnation, self._classes, table=table, data=data
        )
