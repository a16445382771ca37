"""One layer's protocol: events in, messages out. No sockets, no threads, no clock.

Every activation that a layer sends up is answered, in time, by its gradient or by LOST; until then it is out,
at most `window` of them, and is sent again to a peer that is new or whose stream had broken. Messages between
two slaves come in order; what has been seen is known by its batch number.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from torch import Tensor

from common.batches import Batches
from common.messages import BoundaryKind
from slave.decoupling import Message, Unlock


class Trainer:
    """Layer k of K on one slave.

    Args:
        k: the layer, 1..K.
        batches: makes x_b and y_b.
        total: batches of the run, of which the last is total - 1.
        unlock: what the layer does with an input and a gradient.
        window: batches that may be out without their delta; 0 for the top layer, which sends none up.
        window_below: the same of the layer below: so many answers are kept, to be given again.
        incarnation: of this slave's lease.
        next_batch: the first batch that the layer's weights have not seen.
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
    ) -> None:
        self.next_batch = next_batch
        self.steps = 0
        self.lost_batches = 0
        self.delays: Counter[int] = Counter()
        # END was answered (or this is the top layer and it came): nothing more will come or be waited for.
        self.through = False
        self._k = k
        self._batches = batches
        self._total = total
        self._unlock = unlock
        self._window = window
        self._incarnation = incarnation
        self._pending: deque[Message] = deque()
        self._answers: deque[Message] = deque(maxlen=window_below + 1)
        self._last_seen = -1
        self._below = 0
        self._end_sent = False
        self._steps_when_sent: dict[int, int] = {}

    @property
    def in_flight(self) -> int:
        """Batches that are out without their delta."""
        return len(self._steps_when_sent)

    @property
    def can_advance(self) -> bool:
        """Whether the next input is there, and room in the window for what comes of it."""
        if self._end_sent or self.through:
            return False
        if self._k > 1 and not self._pending:
            return False
        return self._at_end or not self._window or self.in_flight < self._window

    @property
    def _at_end(self) -> bool:
        if self._k == 1:
            return self.next_batch >= self._total
        return bool(self._pending) and self._pending[0].kind is BoundaryKind.END

    def advance(self) -> Iterator[Message]:
        """Take the next input, if `can_advance`; yields each message as soon as it is known."""
        if self._at_end:
            yield from self._end()
        elif self._k == 1:
            yield from self._train(self.next_batch, 0, self._batches.inputs(self.next_batch))
        else:
            message = self._pending.popleft()
            assert message.tensor is not None
            yield from self._train(message.batch, message.incarnation, message.tensor)

    def receive(self, message: Message) -> Iterator[Message]:
        """Take a message from a neighbour or the relay; yields what is to be sent."""
        if message.kind is BoundaryKind.PEER:
            yield from self.unanswered()
        elif message.kind in (BoundaryKind.ACTIVATION, BoundaryKind.END):
            yield from self._receive_input(message)
        elif message.kind is BoundaryKind.ENDED:
            yield from self._receive_ended()
        elif message.batch in self._steps_when_sent and message.incarnation == self._incarnation:
            yield from self._receive_answer(message)

    def unanswered(self) -> Iterator[Message]:
        """What a new peer above, or one whose stream had broken, must have (again), oldest first."""
        for batch, h in self._unlock.sent().items():
            yield self._activation(batch, h)
        if self._end_sent and not self.through:
            yield Message(BoundaryKind.END, self._k + 1, self._total, self._incarnation)

    def _train(self, batch: int, below: int, h_below: Tensor) -> Iterator[Message]:
        self.lost_batches += max(0, batch - self.next_batch)
        self.next_batch = max(self.next_batch, batch + 1)
        self.steps += 1
        self._below = below
        y = self._batches.labels(batch).to(h_below.device)
        for made in self._unlock.forward(batch, h_below, y):
            if isinstance(made, Tensor):
                self._steps_when_sent[batch] = self.steps
                yield self._activation(batch, made)
            else:
                yield self._answer(made)

    def _activation(self, batch: int, h: Tensor) -> Message:
        return Message(BoundaryKind.ACTIVATION, self._k + 1, batch, self._incarnation, h)

    def _answer(self, message: Message) -> Message:
        """Address an answer to the slave that sent the activation, and keep it to be given again."""
        answer = Message(message.kind, self._k - 1, message.batch, self._below, message.tensor)
        self._answers.append(answer)
        return answer

    def _receive_input(self, message: Message) -> Iterator[Message]:
        if message.batch > self._last_seen:
            self._last_seen = message.batch
            self._pending.append(message)
            return
        for place, pending in enumerate(self._pending):
            if pending.batch == message.batch:
                # From the sender's successor, perhaps: its own is the one to answer.
                self._pending[place] = message
                return
        given = [answer for answer in self._answers if answer.batch == message.batch]
        if message.kind is BoundaryKind.END:
            yield from given
        elif given and given[-1].incarnation == message.incarnation:
            yield given[-1]
        elif message.incarnation != self._below:
            # It was answered to the sender's predecessor, for an h that died with it.
            yield Message(BoundaryKind.LOST, self._k - 1, message.batch, message.incarnation)

    def _receive_answer(self, message: Message) -> Iterator[Message]:
        if message.kind is BoundaryKind.LOST:
            yield from self._lost(message.batch)
            return
        assert message.tensor is not None
        self.delays[self.steps - self._steps_when_sent.pop(message.batch)] += 1
        for made in self._unlock.gradient(message.batch, message.tensor):
            yield self._answer(made)

    def _lost(self, batch: int) -> Iterator[Message]:
        del self._steps_when_sent[batch]
        self.lost_batches += 1
        for made in self._unlock.lost(batch):
            yield self._answer(made)

    def _end(self) -> Iterator[Message]:
        self._pending.clear()
        self.lost_batches += self._total - self.next_batch
        self.next_batch = self._total
        if self._window:
            self._end_sent = True
            yield Message(BoundaryKind.END, self._k + 1, self._total, self._incarnation)
        else:
            yield from self._finish()

    def _receive_ended(self) -> Iterator[Message]:
        """Answers come in order, so what is still out will never be answered."""
        if self._end_sent and not self.through:
            for batch in list(self._steps_when_sent):
                yield from self._lost(batch)
            yield from self._finish()

    def _finish(self) -> Iterator[Message]:
        self.through = True
        if self._k > 1:
            yield self._answer(Message(BoundaryKind.ENDED, self._k - 1, self._total))
