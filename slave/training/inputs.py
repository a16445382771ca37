"""What has come from the layer below: each batch is taken once, however often and by whomever it is sent."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from operator import attrgetter

from common.errors import MalformedError
from common.wire.boundary import End, Up

# So many batches that were passed over may still come. Those that are out below are fewer by far; but what
# overtook there is out of order here too.
LATE = 1024

_BATCH = attrgetter("batch")


class Inputs:
    """Activations that wait to be taken, by batch, and what is known of those that came or may still come.

    A sender resends what is unanswered when a stream was opened anew, and a newer batch of its may overtake
    that: a batch that was passed over may still come.

    Args:
        window: the most batches that the sender may have out.
        next_batch: the first batch that the layer's weights have not seen.
        owned: whether a batch comes this way, from this sender to this replica.
    """

    def __init__(self, window: int, next_batch: int, owned: Callable[[int], bool] = lambda _: True) -> None:
        # Batches that were passed over; one that comes after all is lost no longer.
        self.lost = 0
        # The newest incarnation that sends.
        self.sender = 0
        self._window = window
        self._owned = owned
        self._first = self._next = next_batch
        self._highest = -1
        self._missing: list[int] = []
        self._waiting: list[Up | End] = []

    @property
    def lowest(self) -> int | None:
        """The lowest batch that waits, END aside."""
        head = self._waiting[0] if self._waiting else None
        return head.batch if isinstance(head, Up) else None

    @property
    def at_end(self) -> bool:
        """Whether all that waits is END."""
        return bool(self._waiting) and isinstance(self._waiting[0], End)

    def add(self, message: Up | End) -> bool:
        """Have an `Up` or `End` wait, unless it was taken before; whether it waits now.

        Raises:
            MalformedError: its sender does not keep to the window.
        """
        self.sender = message.incarnation
        if message.batch > self._highest:
            passed = range(self._highest + 1, message.batch)
            self._missing += [batch for batch in passed[-LATE:] if self._owned(batch)]
            del self._missing[:-LATE]
            self._highest = message.batch
        elif message.batch in self._missing:
            self._missing.remove(message.batch)
        else:
            return self._replaced(message)
        insort(self._waiting, message, key=_BATCH)
        self._drop_orphan()
        return True

    def take(self) -> Up | End:
        """Remove and return the lowest batch that waits, or `End` behind the last."""
        message = self._waiting.pop(0)
        if message.batch >= self._next:
            self.lost += sum(self._owned(batch) for batch in range(self._next, message.batch))
            self._next = message.batch + 1
        elif message.batch >= self._first:
            self.lost -= 1
        return message

    def end(self) -> None:
        """Take END: what has not come is lost."""
        self.take()
        self._missing.clear()

    def _replaced(self, message: Up | End) -> bool:
        """Its sender's successor sends a batch that still waits: the answer is to be his."""
        for place, waiting in enumerate(self._waiting):
            if waiting.batch == message.batch:
                self._waiting[place] = message
                return True
        return False

    def _drop_orphan(self) -> None:
        """What dead senders left may wait too, but not without bound."""
        if len(self._waiting) > 2 * self._window + 1:
            orphans = [waiting for waiting in self._waiting if waiting.incarnation != self.sender]
            if not orphans:
                raise MalformedError(
                    f"incarnation {self.sender} below has {len(self._waiting)} batches out; "
                    f"{self._window} are its window"
                )
            self._waiting.remove(orphans[0])
