"""Activations from the layer below: every batch is taken once, even if several slaves resend."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from operator import attrgetter

from common.errors import MalformedError
from common.wire.boundary import End, Up

# Number of overtaken batches that may still arrive: far more than a sender's window, because the layer below
# may take batches out of order too.
LATE = 1024

_BATCH = attrgetter("batch")


class Inputs:
    """Waiting activations, ordered by batch, and the record of batches that may still arrive.

    After a stream has broken, the sender resends its unanswered batches, and a newer batch may overtake them:
    a batch that was passed over may still arrive.

    Args:
        window: the most batches that the sender may have unanswered.
        next_batch: the first batch that the layer's weights have not seen.
        owned: whether a batch goes from the sender to this replica.
    """

    def __init__(self, window: int, next_batch: int, owned: Callable[[int], bool] = lambda _: True) -> None:
        # Number of batches passed over; a batch that arrives after all is subtracted again.
        self.lost = 0
        # The newest incarnation that has sent.
        self.sender = 0
        self._window = window
        self._owned = owned
        self._first = self._next = next_batch
        self._highest = -1
        self._missing: list[int] = []
        self._waiting: list[Up | End] = []
        # Whether END was taken.
        self._ended = False

    @property
    def lowest(self) -> int | None:
        """Lowest waiting batch, `End` aside; None without a batch."""
        head = self._waiting[0] if self._waiting else None
        return head.batch if isinstance(head, Up) else None

    @property
    def at_end(self) -> bool:
        """True if only `End` waits."""
        return bool(self._waiting) and isinstance(self._waiting[0], End)

    def add(self, message: Up | End) -> bool:
        """Queue an `Up` or `End` unless it was taken before, and return True if it was queued.

        Raises:
            MalformedError: the sender exceeds its window.
        """
        self.sender = message.incarnation
        if isinstance(message, End) and message.batch <= self._highest and not self._ended:
            # Batches behind the end are of a slave that failed before it heard of it.
            self._waiting = [each for each in self._waiting if each.batch < message.batch]
            self._missing = [batch for batch in self._missing if batch < message.batch]
            self._waiting.append(message)
            return True
        if message.batch > self._highest:
            passed = range(self._highest + 1, message.batch)
            self._missing += [batch for batch in passed[-LATE:] if self._owned(batch)]
            del self._missing[:-LATE]
            self._highest = message.batch
        elif message.batch in self._missing:
            self._missing.remove(message.batch)
        else:
            return self._replace(message)
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
        """Remove END; missing batches are lost."""
        self.take()
        self._missing.clear()
        self._ended = True

    def _replace(self, message: Up | End) -> bool:
        """Replace a waiting batch by the successor's, so that the successor receives the answer."""
        for place, waiting in enumerate(self._waiting):
            if waiting.batch == message.batch:
                self._waiting[place] = message
                return True
        return False

    def _drop_orphan(self) -> None:
        """Bound the batches of dead senders: drop the oldest once the queue exceeds two windows."""
        if len(self._waiting) > 2 * self._window + 1:
            orphans = [waiting for waiting in self._waiting if waiting.incarnation != self.sender]
            if not orphans:
                raise MalformedError(
                    f"incarnation {self.sender} below has sent {len(self._waiting)} unanswered batches; its "
                    f"window is {self._window}"
                )
            self._waiting.remove(orphans[0])
