"""Protocol of layers that wait for neighbours: messages in, messages out.

Every `Up` is answered by `Down`, `Taken` (trained on, no gradient) or `Lost`. At most `window` batches are
out without an answer; a new peer, or a peer behind a broken stream, gets unanswered batches again. Batches
are known by number, and answers are kept for repeated questions. `End` follows the last answer. Where layer K
broadcasts dL/dp, a layer may step, and answer, before it has the answer from above.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from common.data.batches import Batches
from common.data.replicas import BatchRoutes
from common.errors import MalformedError
from common.signals.forms import SignalForm
from common.signals.values import Signal, arrange, plain
from common.wire.boundary import Down, End, Ended, Lost, Message, OutputGradient, Ready, Taken, Up
from slave.training.admission import check_form
from slave.training.decoupling import Hearing, Unlock
from slave.training.device import IN_MEMORY, Transfers
from slave.training.inputs import Inputs


class WindowedTrainer:
    """Trainer of layer k of K whose activations are answered, a window of them at a time (see `Trainer`).

    Waiting messages must be received before each `advance`: a gradient goes before a further forward.

    Attributes:
        total: number of batches, of the run or before other replicas go on.

    Args:
        k: the layer, 1..K.
        batches: source of x_b and y_b.
        total: number of batches of the run.
        unlock: rule of the layer's steps.
        window: most batches out without delta; 0 for the top layer, which sends no batch up.
        window_below: window of the layer below; twice as many answers are kept.
        incarnation: of this slave's lease.
        next_batch: first batch not seen by the layer's weights.
        routes: routes of batches through this replica.
        below: form of h_{k-1}; None: unknown.
        transfers: to the device of the layer.
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
        below: SignalForm | None = None,
        transfers: Transfers = IN_MEMORY,
    ) -> None:
        self.steps = 0
        self.delays: Counter[int] = Counter()
        # `End` was answered, or came to the top layer: no message is awaited.
        self.through = False
        self._k = k
        self._batches = batches
        self.total = self._run_total = total
        self._unlock = unlock
        self._below = below
        self._transfers = transfers
        self._window = window
        self._incarnation = incarnation
        self._routes = routes = routes or BatchRoutes()
        self._next = routes.next_own(next_batch) if k == 1 else next_batch
        # By replica of the layer below.
        self._inputs = {
            sender: Inputs(window_below, next_batch, routes.between(sender)) for sender in routes.senders(k)
        }
        # Batch -> incarnation below that waits for the answer.
        self._owed: dict[int, int] = {}
        # Less than a window is sent after an unanswered batch, and less than a window answered before it.
        self._answers: deque[Message] = deque(maxlen=2 * window_below * max(1, len(self._inputs)))
        self._end_sent = False
        # Replicas above without an answer to `End`.
        self._not_ended = set(routes.receivers())
        self._steps_when_sent: dict[int, int] = {}
        # Batches out of which layer K was heard before the answer.
        self._heard: set[int] = set()
        self._unanswered_batches = 0
        # First batch that may not begin yet; None: there is none.
        self._held_at: int | None = None

    @property
    def in_flight(self) -> int:
        """Number of batches out without their delta."""
        return len(self._steps_when_sent)

    @property
    def next_batch(self) -> int:
        """First batch not seen by the layer's weights."""
        # Other replicas go on from the end, whatever lies behind it here.
        reached = min(self._next, self.total) if self.total < self._run_total else self._next
        return min(self._unlock.waiting(), default=reached)

    @property
    def lost_batches(self) -> int:
        """Number of batches lost below, or whose gradient was lost above."""
        return sum(inputs.lost for inputs in self._inputs.values()) + self._unanswered_batches

    @property
    def can_advance(self) -> bool:
        """Whether an input waits, of a batch that exists, and the window has room for its output."""
        if self._end_sent or self.through:
            return False
        if self._at_end:
            return self.in_flight == 0
        batch = self._waiting_batch
        if self._k == 1 and batch == self._held_at:
            return False
        return batch is not None and self._batches.has(batch) and (not self._window or self._has_room)

    @property
    def _waiting_batch(self) -> int | None:
        """Lowest batch whose input is there."""
        if self._k == 1:
            return self._next
        inputs = self._lowest
        return None if inputs is None else inputs.lowest

    @property
    def _lowest(self) -> Inputs | None:
        """Inputs with the lowest waiting batch."""
        waiting = [inputs for inputs in self._inputs.values() if inputs.lowest is not None]
        return min(waiting, key=lambda inputs: inputs.lowest or 0, default=None)

    @property
    def _has_room(self) -> bool:
        """Whether the window, counted from the oldest batch that is out, has room for a further batch."""
        oldest = next(iter(self._steps_when_sent.values()), None)
        return oldest is None or self.steps + 1 - oldest < self._window

    @property
    def _at_end(self) -> bool:
        return (
            self._next >= self.total
            if self._k == 1
            else all(inputs.at_end for inputs in self._inputs.values())
        )

    def begin(self) -> None:
        """Do nothing: a layer begins with its first input."""

    def stop(self) -> None:
        """Do nothing: a layer stops once `End` is answered."""

    def hold(self) -> int:
        """Begin no further batch of the first layer until `release` or `end_at`; returns the batch."""
        self._held_at = self._next
        return self._next

    def release(self) -> None:
        """Go on after `hold`."""
        self._held_at = None

    def end_at(self, batch: int) -> None:
        """End before a batch as before the run's last: other replicas go on from there."""
        self.total, self._held_at = min(batch, self.total), None

    def advance(self) -> Iterator[Message]:
        """Take the next input, if `can_advance`; yields messages as soon as the tensors are computed."""
        if self._at_end:
            yield from self._end()
        elif self._k == 1:
            yield from self._train(self._next, self._transfers.arrive(self._batches.inputs(self._next)))
        else:
            inputs = self._lowest
            assert inputs is not None
            message = inputs.take()
            assert isinstance(message, Up)
            self._owed[message.batch] = message.incarnation
            yield from self._train(message.batch, message.h)

    def receive(self, message: Message) -> Iterator[Message]:
        """Take a message from a neighbour; yields the answers.

        Raises:
            MalformedError: the sender cannot belong to this run.
        """
        match message:
            case Up() | End():
                yield from self._receive_input(message)
            case Down() | Taken() | Lost():
                if message.batch in self._steps_when_sent and message.incarnation == self._incarnation:
                    yield from self._receive_answer(message)
            case OutputGradient():
                yield from self._hear(message)
            case Ended():
                yield from self._receive_ended(message.sender)
            case Ready():
                yield from self._unanswered_by(message.sender)

    def _unanswered_by(self, receiver: int) -> Iterator[Message]:
        """Yield the messages for a replica above that is new or whose stream had broken."""
        for batch, h in self._unlock.sent().items():
            if self._routes.receiver(batch) == receiver:
                yield self._addressed(Up(batch, h), receiver, self._incarnation)
        # Also to the successor of a slave that had answered `End`.
        if self._end_sent and receiver in self._routes.receivers():
            yield self._addressed(End(self.total), receiver, self._incarnation)

    def _train(self, batch: int, h_below: Signal) -> Iterator[Message]:
        self._next = max(self._next, self._routes.next_own(batch + 1) if self._k == 1 else batch + 1)
        self.steps += 1
        y = plain(self._transfers.arrive(self._batches.labels(batch)))
        if self._below is not None:
            check_form(h_below, self._below, len(y), f"h_{self._k - 1}", f"of batch {batch}")
            h_below = arrange(h_below, self._below)
        for message in self._unlock.forward(batch, h_below, y):
            if isinstance(message, Up):
                self._steps_when_sent[batch] = self.steps
                yield self._addressed(message, self._routes.receiver(batch), self._incarnation)
            elif isinstance(message, OutputGradient):
                seats = self._routes.hearing(batch)
                yield from message.broadcast(seats, self._routes.replica, self._incarnation)
            else:
                yield self._answer(message)

    def _addressed(self, message: Message, receiver: int, incarnation: int) -> Message:
        return message.addressed(self._k, self._routes.replica, receiver, incarnation)

    def _answer(self, message: Message) -> Message:
        """Address an answer to the sender of the batch, and keep a copy for a repeated question."""
        batch = message.batch
        answer = self._addressed(message, self._routes.sender(batch), self._owed.pop(batch))
        self._answers.append(answer)
        return answer

    def _check_batch(self, message: Up | End) -> None:
        most = self._run_total if isinstance(message, End) else self._run_total - 1
        if message.batch > most:
            raise MalformedError(
                f"layer {self._k - 1} sent {message.kind.name} of batch {message.batch} in a run of "
                f"{self._run_total}; do all slaves have the same configuration?"
            )

    def _receive_input(self, message: Up | End) -> Iterator[Message]:
        self._check_batch(message)
        if isinstance(message, End):
            # The layer below may have heard sooner where the present replicas end.
            self.end_at(message.batch)
        elif message.batch >= self.total:
            # Of a slave that failed before it heard of the end, or that has trained on such a batch: the next
            # replicas train it. The sender ends once it is answered.
            yield self._addressed(Lost(message.batch), message.sender, message.incarnation)
            return
        inputs = self._inputs.get(message.sender)
        # An older incarnation is fenced, and its successor is here.
        if inputs is None or message.incarnation < inputs.sender or inputs.add(message):
            return
        if isinstance(message, End):
            if self.through:
                yield self._end_message(message.sender)
        elif self._owed.get(message.batch) != message.incarnation:
            yield self._repeat_answer(message)

    def _repeat_answer(self, message: Up) -> Message:
        """Return the answer given to a batch before; `Lost` if that answer was for the h of a dead sender."""
        for answer in self._answers:
            if (answer.batch, answer.incarnation) == (message.batch, message.incarnation):
                return answer
        return self._addressed(Lost(message.batch), self._routes.sender(message.batch), message.incarnation)

    def _receive_answer(self, message: Down | Taken | Lost) -> Iterator[Message]:
        delay = self.steps - self._steps_when_sent.pop(message.batch)
        heard = message.batch in self._heard
        self._heard.discard(message.batch)
        if isinstance(message, Down):
            if not heard:
                self.delays[delay] += 1
            answers = self._unlock.gradient(message.batch, message.delta)
        else:
            self._unanswered_batches += isinstance(message, Lost) and not heard
            answers = self._unlock.lost(message.batch)
        for answer in answers:
            yield self._answer(answer)

    def awaits(self, batch: int) -> bool:
        """Whether the layer computes something on the gradient of a batch, once that comes."""
        return batch in self._steps_when_sent and batch not in self._heard

    def _hear(self, message: OutputGradient) -> Iterator[Message]:
        """Take dL/dp, where the layer learns and the batch is out; the answer from above is still to come."""
        batch = message.batch
        if isinstance(self._unlock, Hearing) and self.awaits(batch):
            self.delays[self.steps - self._steps_when_sent[batch]] += 1
            self._heard.add(batch)
            for answer in self._unlock.hear(batch, message.error):
                yield self._answer(answer)

    def _end(self) -> Iterator[Message]:
        if self._k > 1:
            for inputs in self._inputs.values():
                inputs.end()
            self._next = self.total
        if self._window:
            self._end_sent = True
            for receiver in self._routes.receivers():
                yield self._addressed(End(self.total), receiver, self._incarnation)
        else:
            yield from self._finish()

    def _receive_ended(self, above: int) -> Iterator[Message]:
        self._not_ended.discard(above)
        if self._end_sent and not self._not_ended and not self.through:
            yield from self._finish()

    def _finish(self) -> Iterator[Message]:
        self.through = True
        for sender in self._inputs:
            yield self._end_message(sender)

    def _end_message(self, sender: int) -> Message:
        return self._addressed(Ended(self.total), sender, self._inputs[sender].sender)
