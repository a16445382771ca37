"""One layer that waits for nobody: the protocol of `full`. No sockets, no threads, no clock.

Layers run at their own speeds, any message may be lost, and nothing is answered, kept or sent again: a
message carries all that is needed. So there is no window, no END, and a replaced slave is no event. Only
where nothing at all comes from a side does a layer stand still, after `ALONE` batches: M and I, without
anything to learn from, would go on teaching what was true long ago.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from common.data.batches import Batches
from common.data.replicas import BatchRoutes
from common.errors import MalformedError
from common.slots import Slots
from common.wire.boundary import Down, Message, Ready, Up
from slave.training.unlocks.full import FullUnlock

# Longer delays are counted as this one.
LONGEST_DELAY = 1024
# So many batches a layer goes through without a word from above, or from below: a neighbour may be that many
# times slower. What it sends meanwhile wakes a neighbour that stands still, too.
ALONE = 128


class FreeTrainer:
    """Trainer of layer k of K that waits for no neighbour (see `Trainer`), but to begin.

    Before each step of its own the layer learns on at most one message from above and one from below: a
    neighbour that is faster does not keep it from its work.

    Attributes:
        steps: batches that the layer went through.
        delays: of each gradient that was learned on, the batches that the layer had started since its own of
            that number; 0 where it had not come there.
        through: it was told to stop.

    Args:
        k: the layer, 1..K.
        batches: makes x_b and y_b, of batches past the run's count as well.
        total: batches of the run.
        unlock: the layer, M and I.
        top: whether it is layer K.
        slots: of each mailbox.
        incarnation: of this slave's lease.
        next_batch: the first batch that the layer's weights have not seen.
        routes: ways of the batches through this replica.
        shapes: of one example of h_{k-1} and of h_k.
        device: where the layer computes.
    """

    def __init__(
        self,
        k: int,
        batches: Batches,
        total: int,
        unlock: FullUnlock,
        *,
        top: bool,
        slots: int,
        incarnation: int,
        next_batch: int,
        routes: BatchRoutes | None = None,
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
        device: torch.device | str = "cpu",
    ) -> None:
        self.steps = 0
        self.delays: Counter[int] = Counter()
        self.through = self._begun = False
        # Nothing is out, and what never came is not missed.
        self.in_flight = 0
        self.lost_batches = 0
        self._k = k
        self._batches = batches
        self._total = total
        self._unlock = unlock
        self._incarnation = incarnation
        self._routes = routes = routes or BatchRoutes()
        self._below, self._above = shapes
        self._device = device
        self._next = routes.next_own(next_batch)
        self._activations, self._gradients = Slots[Up](slots), Slots[Down](slots)
        # By the type that comes from each side, the steps when the last one came.
        sides: dict[type[Message], bool] = {Up: k > 1, Down: not top}
        self._steps_when_heard = {kind: 0 for kind, there in sides.items() if there}

    @property
    def next_batch(self) -> int:
        """The first batch that the layer's weights have not seen; it goes on past the run's count."""
        return self._next

    @property
    def can_advance(self) -> bool:
        """Whether the layer has begun, was not stopped, and heard from each side not too long ago."""
        if self.through or not self._begun:
            return False
        return self.steps < min(self._steps_when_heard.values(), default=self.steps) + ALONE

    def begin(self) -> None:
        """Begin: every layer has its slave. A layer alone would go far before its neighbours are there."""
        self._begun = True

    def stop(self) -> None:
        """Every layer has gone through the run's batches: no more steps."""
        self.through = True

    def advance(self) -> Iterator[Message]:
        """Learn on what has come, and step; yields what is to be sent."""
        self._learn()
        batch = self._next
        self._next = self._routes.next_own(batch + 1)
        self.steps += 1
        for message in self._unlock.step(batch, self._x(batch), self._y(batch)):
            up = isinstance(message, Up)
            receiver = self._routes.receiver(batch) if up else self._routes.sender(batch)
            yield message.addressed(self._k, self._routes.replica, receiver, self._incarnation)

    def receive(self, message: Message) -> Iterator[Message]:
        """Take a message from a neighbour, to be learned on in its time; nothing is ever answered."""
        match message:
            case Up():
                self._activations.put(message, message.batch)
            case Down():
                self._gradients.put(message, message.batch)
            case Ready():
                self._hear()
        if type(message) in self._steps_when_heard:
            self._steps_when_heard[type(message)] = self.steps
        return iter(())

    def _hear(self) -> None:
        self._steps_when_heard = dict.fromkeys(self._steps_when_heard, self.steps)

    def _learn(self) -> None:
        """I on an activation, M on a gradient, where one has come."""
        if len(self._activations):
            up = self._activations.get()
            h = self._checked(up.batch, up.h, self._below, "activation")
            self._unlock.learn_input(up.batch, self._x(up.batch), h)
        if len(self._gradients):
            down = self._gradients.get()
            u = self._checked(down.batch, down.u, self._above, "input beside a gradient")
            delta = self._checked(down.batch, down.delta, self._above, "gradient")
            self._unlock.learn_gradient(down.batch, u, self._y(down.batch), delta)
            self.delays[min(max(self._next - down.batch - 1, 0), LONGEST_DELAY)] += 1

    def _checked(self, batch: int, tensor: Tensor | None, shape: tuple[int, ...], what: str) -> Tensor:
        """A tensor that came, if it is shaped as this run's are.

        Raises:
            MalformedError: it is not.
        """
        due = (len(self._batches.labels(batch)), *shape)
        if tensor is None or tuple(tensor.shape) != due:
            came = None if tensor is None else tuple(tensor.shape)
            raise MalformedError(
                f"layer {self._k} was sent an {what} of {came} for batch {batch}, not {due}; do all slaves "
                "have the same network?"
            )
        return tensor

    def _x(self, batch: int) -> Tensor:
        return self._batches.inputs(batch).to(self._device)

    def _y(self, batch: int) -> Tensor:
        return self._batches.labels(batch).to(self._device)
