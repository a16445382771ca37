"""One layer's protocol where layers wait for each other: messages in, messages out.

Every activation that a layer sends up is answered, in time, by its gradient, by TAKEN (it was trained on, and
there is none) or by LOST; until then it is out, at most `window` of them, and is sent again to a peer that is
new or whose stream had broken. What has been seen is known by its batch number, and answers are kept to be
given again. END is sent once all is answered.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

import torch
from torch import Tensor

from common.data.batches import Batches
from common.data.replicas import BatchRoutes
from common.errors import MalformedError
from common.wire.boundary import Down, End, Ended, Lost, Message, Ready, Taken, Up
from slave.training.decoupling import Unlock
from slave.training.inputs import Inputs


class WindowedTrainer:
    """Trainer of layer k of K whose activations are answered, a window of them at a time (see `Trainer`).

    Whoever drives it gives it every message that has come (`receive`) before each `advance`: a gradient that
    is there goes before a further forward.

    Args:
        k: the layer, 1..K.
        batches: makes x_b and y_b.
        total: batches of the run, of which the last is total - 1.
        unlock: what the layer does with an input and a gradient.
        window: batches that may be out without their delta; 0 for the top layer, which sends none up.
        window_below: the same of the layer below: twice so many answers are kept, to be given again.
        incarnation: of this slave's lease.
        next_batch: the first batch that the layer's weights have not seen.
        routes: ways of the batches through this replica.
        shape_below: of one example of h_{k-1}; None where it is not known.
        device: where the layer computes.
    """

    def __init__(
        self,
        k: int,
        batches: Batches,
        total: int,
        unlock: Unlock,
        *,
        window: int,
        window_below: int,
        incarnation: int,
        next_batch: int,
        routes: BatchRoutes | None = None,
        shape_below: tuple[int, ...] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.steps = 0
        self.delays: Counter[int] = Counter()
        # END was answered (or this is the top layer and it came): nothing more will come or be waited for.
        self.through = False
        self._k = k
        self._batches = batches
        self._total = total
        self._unlock = unlock
        self._shape_below = shape_below
        self._device = device
        self._window = window
        self._incarnation = incarnation
        self._routes = routes = routes or BatchRoutes()
        self._next = routes.next_own(next_batch) if k == 1 else next_batch
        # By the replica below that sends them.
        self._inputs = {
            sender: Inputs(window_below, next_batch, routes.between(sender)) for sender in routes.senders(k)
        }
        # Which incarnation below waits for the answer to a batch that was taken.
        self._owed: dict[int, int] = {}
        # After an unanswered batch, less than a window is sent, and less is answered of what was sent before.
        self._answers: deque[Message] = deque(maxlen=2 * window_below * max(1, len(self._inputs)))
        self._end_sent = False
        # The replicas above that have not answered END.
        self._not_ended = set(routes.receivers())
        self._steps_when_sent: dict[int, int] = {}
        self._unanswered_batches = 0

    @property
    def in_flight(self) -> int:
        """Batches that are out without their delta."""
        return len(self._steps_when_sent)

    @property
    def next_batch(self) -> int:
        """The first batch that the layer's weights have not seen."""
        return min(self._unlock.waiting(), default=self._next)

    @property
    def lost_batches(self) -> int:
        """Batches that never came, and those whose gradient never did."""
        return sum(inputs.lost for inputs in self._inputs.values()) + self._unanswered_batches

    @property
    def can_advance(self) -> bool:
        """Whether the next input is there, and room in the window for what comes of it."""
        if self._end_sent or self.through:
            return False
        if self._at_end:
            return self.in_flight == 0
        return (self._k == 1 or self._lowest is not None) and (not self._window or self._has_room)

    @property
    def _lowest(self) -> Inputs | None:
        """Where the lowest batch that has come waits."""
        waiting = [inputs for inputs in self._inputs.values() if inputs.lowest is not None]
        return min(waiting, key=lambda inputs: inputs.lowest or 0, default=None)

    @property
    def _has_room(self) -> bool:
        """Whether the window, which begins with the oldest batch that is out, has room for one more."""
        oldest = next(iter(self._steps_when_sent.values()), None)
        return oldest is None or self.steps + 1 - oldest < self._window

    @property
    def _at_end(self) -> bool:
        return (
            self._next >= self._total
            if self._k == 1
            else all(inputs.at_end for inputs in self._inputs.values())
        )

    def begin(self) -> None:
        """Do nothing: a layer begins with its first input."""

    def stop(self) -> None:
        """Do nothing: a layer stops once `End` is answered."""

    def advance(self) -> Iterator[Message]:
        """Take the next input, if `can_advance`; yields each message as soon as it is known."""
        if self._at_end:
            yield from self._end()
        elif self._k == 1:
            yield from self._train(self._next, self._batches.inputs(self._next).to(self._device))
        else:
            inputs = self._lowest
            assert inputs is not None
            message = inputs.take()
            assert isinstance(message, Up)
            self._owed[message.batch] = message.incarnation
            yield from self._train(message.batch, message.h)

    def receive(self, message: Message) -> Iterator[Message]:
        """Take a message from a neighbour or the relay; yields what is to be sent.

        Raises:
            MalformedError: its sender cannot belong to this run.
        """
        match message:
            case Up() | End():
                yield from self._receive_input(message)
            case Down() | Taken() | Lost():
                if message.batch in self._steps_when_sent and message.incarnation == self._incarnation:
                    yield from self._receive_answer(message)
            case Ended():
                yield from self._receive_ended(message.sender)
            case Ready():
                yield from self._unanswered_by(message.sender)

    def _unanswered_by(self, receiver: int) -> Iterator[Message]:
        """What a replica above that is new, or whose stream had broken, must have (again)."""
        for batch, h in self._unlock.sent().items():
            if self._routes.receiver(batch) == receiver:
                yield self._addressed(Up(batch, h), receiver, self._incarnation)
        # To one that replaces a slave which had answered it, too.
        if self._end_sent and receiver in self._routes.receivers():
            yield self._addressed(End(self._total), receiver, self._incarnation)

    def _train(self, batch: int, h_below: Tensor) -> Iterator[Message]:
        self._next = max(self._next, self._routes.next_own(batch + 1) if self._k == 1 else batch + 1)
        self.steps += 1
        y = self._batches.labels(batch).to(h_below.device)
        came, due = tuple(h_below.shape), (len(y), *(self._shape_below or h_below.shape[1:]))
        if came != due:
            raise MalformedError(
                f"h_{self._k - 1}({batch}) came as {came}, not {due}; do all slaves have the same network?"
            )
        for message in self._unlock.forward(batch, h_below, y):
            if isinstance(message, Up):
                self._steps_when_sent[batch] = self.steps
                yield self._addressed(message, self._routes.receiver(batch), self._incarnation)
            else:
                yield self._answer(message)

    def _addressed(self, message: Message, receiver: int, incarnation: int) -> Message:
        return message.addressed(self._k, self._routes.replica, receiver, incarnation)

    def _answer(self, message: Message) -> Message:
        """Address an answer to the slave that sent the activation, and keep it to be given again."""
        batch = message.batch
        answer = self._addressed(message, self._routes.sender(batch), self._owed.pop(batch))
        self._answers.append(answer)
        return answer

    def _check_batch(self, message: Up | End) -> None:
        end = isinstance(message, End)
        if message.batch != self._total if end else message.batch >= self._total:
            raise MalformedError(
                f"layer {self._k - 1} sent {message.kind.name} of batch {message.batch} in a run of "
                f"{self._total}; do all slaves have the same configuration?"
            )

    def _receive_input(self, message: Up | End) -> Iterator[Message]:
        self._check_batch(message)
        inputs = self._inputs.get(message.sender)
        # An older incarnation is fenced, and its successor is here.
        if inputs is None or message.incarnation < inputs.sender or inputs.add(message):
            return
        if isinstance(message, End):
            if self.through:
                yield self._ended(message.sender)
        elif self._owed.get(message.batch) != message.incarnation:
            yield self._given(message)

    def _given(self, message: Up) -> Message:
        """The answer to a batch that was taken before; LOST if it was for an h that died with its sender."""
        for answer in self._answers:
            if (answer.batch, answer.incarnation) == (message.batch, message.incarnation):
                return answer
        return self._addressed(Lost(message.batch), self._routes.sender(message.batch), message.incarnation)

    def _receive_answer(self, message: Down | Taken | Lost) -> Iterator[Message]:
        delay = self.steps - self._steps_when_sent.pop(message.batch)
        if isinstance(message, Down):
            self.delays[delay] += 1
            answers = self._unlock.gradient(message.batch, message.delta)
        else:
            self._unanswered_batches += isinstance(message, Lost)
            answers = self._unlock.lost(message.batch)
        for answer in answers:
            yield self._answer(answer)

    def _end(self) -> Iterator[Message]:
        if self._k > 1:
            for inputs in self._inputs.values():
                inputs.end()
            self._next = self._total
        if self._window:
            self._end_sent = True
            for receiver in self._routes.receivers():
                yield self._addressed(End(self._total), receiver, self._incarnation)
        else:
            yield from self._finish()

    def _receive_ended(self, above: int) -> Iterator[Message]:
        self._not_ended.discard(above)
        if self._end_sent and not self._not_ended and not self.through:
            yield from self._finish()

    def _finish(self) -> Iterator[Message]:
        self.through = True
        for sender in self._inputs:
            yield self._ended(sender)

    def _ended(self, sender: int) -> Message:
        return self._addressed(Ended(self._total), sender, self._inputs[sender].sender)
