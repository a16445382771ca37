"""Served synthesis seen from an unlock: stand-ins for the master's M and I. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from torch import Tensor

from common.errors import MalformedError
from common.shards.flat import pack, state_dict
from common.wire.messages import SynthesisKind, SynthesisMessage
from slave.training.decoupling import TensorSynthesizer
from slave.training.health import Health


class Serving(Protocol):
    """Connection to the master's M and I."""

    def ask(self, question: SynthesisMessage) -> SynthesisMessage:
        """Return the answer to a question; may raise errors that end the lease."""

    def tell(self, lesson: SynthesisMessage) -> None:
        """Send a lesson, which has no answer."""


class ServedSynthesizer(TensorSynthesizer):
    """M_k in the master, shared by all replicas of the layer.

    Args:
        serving: connection to the master's M.
        incarnation: incarnation of this slave's lease.
        classes: number of values of an integer target; 0: floats.
        health: record of M's quality in this slave.
        every: M learns on every `every`-th true gradient.
    """

    def __init__(
        self, serving: Serving, incarnation: int, classes: int, health: Health, every: int = 1
    ) -> None:
        super().__init__(health, every)
        self._serving = serving
        self._template = SynthesisMessage(
            SynthesisKind.ASK, "gradient", incarnation=incarnation, classes=classes
        )
        # L_M of the layer's last lesson, as of the master's last answer.
        self._loss = 0.0

    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """Return M_k(h_k(b), y), in the shape of h; waits for the master.

        Raises:
            MalformedError: the answer does not match the question.
        """
        answer = self._serving.ask(_with(self._template, batch, {"h": h, "y": y}))
        self._loss = answer.loss
        return _tensor_of(answer, "delta", h.shape).to(h.device)

    def teach(self, batch: int, h: Tensor, y: Tensor, delta: Tensor) -> float:
        """Send M a lesson, from which it learns later; return the loss of the master's last answer."""
        lesson = replace(self._template, kind=SynthesisKind.LEARN)
        self._serving.tell(_with(lesson, batch, {"h": h, "y": y, "delta": delta}))
        return self._loss


class ServedPredictor:
    """I_k in the master, shared by all replicas of the layer.

    Args:
        serving: connection to the master's I.
        incarnation: incarnation of this slave's lease.
        vocabulary: number of tokens, where x is int64; 0: x is float32.
        shape: shape of one example of h_{k-1}.
        health: record of I's quality in this slave.
    """

    def __init__(
        self, serving: Serving, incarnation: int, vocabulary: int, shape: tuple[int, ...], health: Health
    ) -> None:
        self._serving = serving
        self._shape = shape
        self._health = health
        self._template = SynthesisMessage(
            SynthesisKind.ASK, "input", incarnation=incarnation, classes=vocabulary, shape=list(shape)
        )
        self._loss = 0.0

    def predict(self, batch: int, x: Tensor) -> Tensor:
        """Return the predicted h_{k-1} of x_b; waits for the master.

        Raises:
            MalformedError: the answer does not match the question.
        """
        answer = self._serving.ask(_with(self._template, batch, {"x": x}))
        self._loss = answer.loss
        return _tensor_of(answer, "h", (len(x), *self._shape)).to(x.device)

    def learn(self, batch: int, x: Tensor, h: Tensor) -> None:
        """Send I the h_{k-1} that the layer below computed for the batch; I learns later."""
        lesson = replace(self._template, kind=SynthesisKind.LEARN)
        self._serving.tell(_with(lesson, batch, {"x": x, "h": h}))
        self._health.learned_input(self._loss)


def _with(template: SynthesisMessage, batch: int, tensors: dict[str, Tensor]) -> SynthesisMessage:
    table, data = pack(tensors)
    return replace(template, batch=batch, table=table, data=data)


def _tensor_of(answer: SynthesisMessage, name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = state_dict(answer.table, answer.data).get(name)
    if tensor is None or tuple(tensor.shape) != tuple(shape):
        raise MalformedError(f"the master answered {answer.kind.name} without a {name} of {tuple(shape)}")
    return tensor
