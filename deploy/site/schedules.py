"""Schedules of a few batches under an unlock: when each layer computes, and what travels.

A drawing's clockwork, in units of a forward: it takes waits, windows and gradients from the unlock's row, and
has none of the arithmetic of a training.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

from common.config.unlocks import UnlockRow

FORWARD, BACKWARD, LEARN, TRAVEL = 1.0, 2.0, 0.5, 0.5


@dataclass(frozen=True)
class Span:
    """Work of a layer on a batch: kind is forward, backward (with the step) or learn (of M and I)."""

    kind: str
    layer: int
    batch: int
    start: float
    end: float


@dataclass(frozen=True)
class Message:
    """An activation (up) or a gradient (down) on its way from a layer to another."""

    up: bool
    layer: int
    receiver: int
    batch: int
    sent: float
    arrived: float


@dataclass
class _Layer:
    """State of a layer: batches that have arrived, messages to learn from, and batches that are out."""

    number: int
    inputs: deque[int] = field(default_factory=deque)
    gradients: deque[int] = field(default_factory=deque)
    lessons: deque[int] = field(default_factory=deque)
    busy: bool = False
    out: int = 0
    begun: int = 0


class Schedule:
    """Work and messages of K layers until a time.

    Args:
        unlock: the row.
        layers: K.
        until: end of the drawing, in forwards; later work is not begun.
    """

    def __init__(self, unlock: UnlockRow, layers: int = 3, until: float = 20.0) -> None:
        self.unlock, self.until = unlock, until
        self.spans: list[Span] = []
        self.messages: list[Message] = []
        self._layers = [_Layer(number) for number in range(1, layers + 1)]
        self._events: list[tuple[float, int, int, str, int]] = []
        self._numbers = itertools.count()
        self._run()

    def _run(self) -> None:
        self._begin_work(0.0)
        while self._events:
            now, _, number, kind, batch = heapq.heappop(self._events)
            layer = self._layers[number - 1]
            if kind == "free":
                layer.busy = False
            elif kind == "taken":
                layer.out -= 1
            else:
                getattr(layer, kind).append(batch)
            self._begin_work(now)

    def _begin_work(self, now: float) -> None:
        for layer in self._layers:
            if not layer.busy and now < self.until:
                self._choose(layer, now)

    def _choose(self, layer: _Layer, now: float) -> None:
        """Begin a layer's next work: gradients first, as in training."""
        row = self.unlock
        if layer.gradients:
            batch = layer.gradients.popleft()
            layer.out -= 1
            if row.waits:
                self._work(layer, batch, now, [("backward", BACKWARD)])
            else:
                self._work(layer, batch, now, [("learn", LEARN)])
        elif layer.lessons:
            self._work(layer, layer.lessons.popleft(), now, [("learn", LEARN)])
        elif self._has_input(layer) and (self._is_top(layer) or layer.out < self._window(layer)):
            batch = layer.begun if self._starts_alone(layer) else layer.inputs.popleft()
            layer.begun += 1
            layer.out += not self._is_top(layer) and not row.predicts
            steps = [("forward", FORWARD)]
            if self._is_top(layer) or not row.waits:
                steps.append(("backward", BACKWARD))
            self._work(layer, batch, now, steps)

    def _starts_alone(self, layer: _Layer) -> bool:
        return layer.number == 1 or self.unlock.predicts

    def _has_input(self, layer: _Layer) -> bool:
        return self._starts_alone(layer) or bool(layer.inputs)

    def _is_top(self, layer: _Layer) -> bool:
        return layer.number == len(self._layers)

    def _window(self, layer: _Layer) -> int:
        return self.unlock.window or 2 * (len(self._layers) - layer.number) + 1

    def _work(self, layer: _Layer, batch: int, now: float, steps: list[tuple[str, float]]) -> None:
        layer.busy = True
        for kind, duration in steps:
            self.spans.append(Span(kind, layer.number, batch, now, now + duration))
            now += duration
            if kind == "forward" and not self._is_top(layer):
                self._send(layer, layer.number + 1, batch, now)
            elif kind == "forward" and self.unlock.aligns:
                # The error of the output, to every layer at once.
                for receiver in range(1, layer.number):
                    self._send(layer, receiver, batch, now)
            elif kind == "backward" and layer.number > 1 and not self.unlock.aligns:
                self._send(layer, layer.number - 1, batch, now)
        self._at(now, layer.number, "free", batch)

    def _send(self, layer: _Layer, receiver: int, batch: int, now: float) -> None:
        row, up = self.unlock, receiver > layer.number
        if up or row.sends_down:
            self.messages.append(Message(up, layer.number, receiver, batch, now, now + TRAVEL))
        if row.predicts:
            kind = "lessons"
        elif up:
            kind = "inputs"
        else:
            kind = "gradients" if row.sends_down else "taken"
        self._at(now + TRAVEL, receiver, kind, batch)

    def _at(self, when: float, number: int, kind: str, batch: int) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), number, kind, batch))
