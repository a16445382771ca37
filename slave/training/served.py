"""M and I in the master, as a layer's unlock sees them: asked what to step on, told what was true. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from torch import Tensor

from common.errors import MalformedError
from common.shards.flat import packed, state_dict
from common.wire.messages import SynthesisKind, SynthesisMessage
from slave.training.decoupling import Synthesizing
from slave.training.health import Health


class Serving(Protocol):
    """The master, as far as M and I go."""

    def ask(self, question: SynthesisMessage) -> SynthesisMessage:
        """The answer to a question; may raise whatever ends the lease."""

    def tell(self, lesson: SynthesisMessage) -> None:
        """Tell what has no answer."""


class ServedSynthesizer(Synthesizing):
    """M_k, which the master runs and all replicas of the layer share.

    Args:
        serving: what runs M.
        incarnation: of this slave's lease.
        classes: how many labels there are.
        health: what is known of M here.
        every: M learns on each `every`-th true gradient.
    """

    def __init__(
        self, serving: Serving, incarnation: int, classes: int, health: Health, every: int = 1
    ) -> None:
        super().__init__(health, every)
        self._serving = serving
        self._saying = SynthesisMessage(
            SynthesisKind.ASK, "gradient", incarnation=incarnation, classes=classes
        )
        # L_M of the layer's last lesson, as the last answer told it.
        self._loss = 0.0

    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """M_k(h_k(b), y), shaped as h: waits for it.

        Raises:
            MalformedError: the answer is none to the question.
        """
        answer = self._serving.ask(_with(self._saying, batch, {"h": h, "y": y}))
        self._loss = answer.loss
        return _made_up(answer, "delta", h.shape).to(h.device)

    def teach(self, batch: int, h: Tensor, y: Tensor, delta: Tensor) -> float:
        """Tell M; it learns in its own time. The loss that came with its last answer."""
        lesson = replace(self._saying, kind=SynthesisKind.LEARN)
        self._serving.tell(_with(lesson, batch, {"h": h, "y": y, "delta": delta}))
        return self._loss


class ServedPredictor:
    """I_k, which the master runs and all replicas of the layer share.

    Args:
        serving: what runs I.
        incarnation: of this slave's lease.
        shape: of one example of h_{k-1}.
        health: what is known of I here.
    """

    def __init__(self, serving: Serving, incarnation: int, shape: tuple[int, ...], health: Health) -> None:
        self._serving = serving
        self._shape = shape
        self._health = health
        self._saying = SynthesisMessage(
            SynthesisKind.ASK, "input", incarnation=incarnation, shape=list(shape)
        )
        self._loss = 0.0

    def predict(self, batch: int, x: Tensor) -> Tensor:
        """The made-up h_{k-1} of x_b: waits for it.

        Raises:
            MalformedError: the answer is none to the question.
        """
        answer = self._serving.ask(_with(self._saying, batch, {"x": x}))
        self._loss = answer.loss
        return _made_up(answer, "h", (len(x), *self._shape)).to(x.device)

    def learn(self, batch: int, x: Tensor, h: Tensor) -> None:
        """Tell I what the layer below made of the same batch; it learns in its own time."""
        lesson = replace(self._saying, kind=SynthesisKind.LEARN)
        self._serving.tell(_with(lesson, batch, {"x": x, "h": h}))
        self._health.learned_input(self._loss)


def _with(said: SynthesisMessage, batch: int, tensors: dict[str, Tensor]) -> SynthesisMessage:
    table, data = packed(tensors)
    return replace(said, batch=batch, table=table, data=data)


def _made_up(answer: SynthesisMessage, name: str, shape: tuple[int, ...]) -> Tensor:
    made = state_dict(answer.table, answer.data).get(name)
    if made is None or tuple(made.shape) != tuple(shape):
        raise MalformedError(f"the master answered {answer.kind.name} without a {name} of {tuple(shape)}")
    return made
