"""Protocol of unlock `full`: no layer waits. No sockets, no threads, no clock.

Layers run at their own speeds, any message may be lost, and no message is answered, kept or sent again. So
there is no window and no `End`, and a replaced slave is no event. A layer stands still only after `lead`
batches without a message from one side: M and I would otherwise go on teaching outdated gradients and
inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import Tensor

from common.data.batches import Batches
from common.data.replicas import BatchRoutes
from common.errors import MalformedError
from common.signals.forms import SignalForm
from common.signals.values import Signal, plain
from common.slots import Slots
from common.wire.boundary import Direction, Down, Message, Ready, Up
from slave.training.admission import check_form
from slave.training.device import IN_MEMORY, Transfers
from slave.training.unlocks.full import FullUnlock

# Longer delays are counted as this delay.
LONGEST_DELAY = 1024


class FreeTrainer:
    """Trainer of layer k of K that waits for no neighbour (see `Trainer`), but to begin.

    Before each step, M and I learn on at most one message from above and one from below: a faster neighbour
    does not keep the layer from stepping.

    Attributes:
        steps: number of steps.
        delays: delay of a gradient -> number of gradients; 0 for a batch that the layer has not reached.
        through: the layer was stopped.
        total: number of batches, of the run or before other replicas go on.

    Args:
        k: the layer, 1..K.
        batches: source of x_b and y_b, also past the run's count.
        total: number of batches of the run.
        unlock: the layer, M and I.
        top: whether the layer is K.
        slots: of each mailbox.
        lead: most batches without a message from above, or from below: a neighbour may be as many times
            slower. Messages of those batches wake a neighbour that stands still, too.
        incarnation: of this slave's lease.
        next_batch: first batch not seen by the layer's weights.
        routes: routes of batches through this replica.
        forms: of h_{k-1} and of h_k.
        transfers: to the device of the layer.
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
        lead: int,
        incarnation: int,
        next_batch: int,
        routes: BatchRoutes | None = None,
        forms: tuple[SignalForm, SignalForm],
        transfers: Transfers = IN_MEMORY,
    ) -> None:
        self.steps = 0
        self.delays: Counter[int] = Counter()
        self.through = self._begun = False
        # No batch is out, and no lost message is missed.
        self.in_flight = 0
        self.lost_batches = 0
        self._k = k
        self._batches = batches
        self.total = total
        # First batch that may not begin; None: the layer may also go past the run's count.
        self._held_at: int | None = None
        # Other replicas go on from `total`: a neighbour that is there already sends nothing more.
        self._ends = False
        self._lead = lead
        self._unlock = unlock
        self._incarnation = incarnation
        self._routes = routes = routes or BatchRoutes()
        self._below, self._above = forms
        self._transfers = transfers
        self._next = routes.next_own(next_batch)
        self._activations, self._gradients = Slots[Up](slots), Slots[Down](slots)
        # Way of the messages from each side -> steps when the last such message came.
        sides = {Direction.UP: k > 1, Direction.DOWN: not top}
        self._steps_when_heard = {way: 0 for way, there in sides.items() if there}

    @property
    def next_batch(self) -> int:
        """First batch not seen by the layer's weights; also past the run's count, but for other replicas'."""
        return min(self._next, self.total) if self._ends else self._next

    @property
    def can_advance(self) -> bool:
        """Whether the layer has begun, was not stopped, has a batch, and heard from each side of late."""
        if self.through or not self._begun or not self._batches.has(self._next):
            return False
        if self._held_at is not None and self._next >= self._held_at:
            return False
        return (
            self._ends or self.steps < min(self._steps_when_heard.values(), default=self.steps) + self._lead
        )

    def awaits(self, batch: int) -> bool:  # noqa: ARG002
        """Return False: a message is kept until the next step."""
        return False

    def begin(self) -> None:
        """Begin: every layer has its slave. A lone layer would go far before the neighbours come."""
        self._begun = True

    def stop(self) -> None:
        """Stop: every layer has passed the run's batches."""
        self.through = True

    def hold(self) -> int:
        """Begin no further batch until `release` or `end_at`; returns the batch."""
        self._held_at = self._next
        return self._next

    def release(self) -> None:
        """Go on after `hold`."""
        self._held_at = None

    def end_at(self, batch: int) -> None:
        """Begin no batch from `batch` on: other replicas go on from there, once every layer is that far."""
        self.total = self._held_at = batch
        self._ends = True

    def advance(self) -> Iterator[Message]:
        """Learn on waiting messages, and step; yields the messages of the step.

        Raises:
            MalformedError: a waiting message has another form than the layer's.
        """
        self._learn()
        batch = self._next
        self._next = self._routes.next_own(batch + 1)
        self.steps += 1
        for message in self._unlock.step(batch, self._x(batch), self._y(batch)):
            up = isinstance(message, Up)
            receiver = self._routes.receiver(batch) if up else self._routes.sender(batch)
            yield message.addressed(self._k, self._routes.replica, receiver, self._incarnation)

    def receive(self, message: Message) -> Iterator[Message]:
        """Keep a message until the next step; yields no answer."""
        match message:
            case Up():
                self._activations.put(message, message.batch)
            case Down():
                self._gradients.put(message, message.batch)
            case Ready():
                self._hear()
        if message.direction in self._steps_when_heard:
            self._steps_when_heard[message.direction] = self.steps
        return iter(())

    def _hear(self) -> None:
        self._steps_when_heard = dict.fromkeys(self._steps_when_heard, self.steps)

    def _learn(self) -> None:
        """Have I learn on a waiting `Up`, and M on a waiting `Down`; of batches that exist here."""
        if len(self._activations) and self._batches.has((up := self._activations.get()).batch):
            check_form(up.h, self._below, self._batches.size, f"h_{self._k - 1}", f"of batch {up.batch}")
            self._unlock.learn_input(up.batch, self._x(up.batch), up.h)
        if len(self._gradients) and self._batches.has((down := self._gradients.get()).batch):
            self._check_down(down)
            assert down.u is not None
            self._unlock.learn_gradient(down.batch, down.u, self._y(down.batch), down.delta)
            self.delays[min(max(self._next - down.batch - 1, 0), LONGEST_DELAY)] += 1

    def _check_down(self, down: Down) -> None:
        """Check the form of a gradient, and of the input at which the layer above took the gradient.

        Raises:
            MalformedError: another form than the run's, or no input.
        """
        if down.u is None:
            raise MalformedError(
                f"layer {self._k} was sent a gradient for batch {down.batch} without the input of layer "
                f"{self._k + 1}; do all slaves have the same configuration?"
            )
        for signal, name in ((down.u, "input"), (down.delta, "gradient")):
            check_form(signal, self._above.floats, self._batches.size, name, f"of batch {down.batch}")

    def _x(self, batch: int) -> Signal:
        return self._transfers.arrive(self._batches.inputs(batch))

    def _y(self, batch: int) -> Tensor:
        return plain(self._transfers.arrive(self._batches.labels(batch)))
