"""Record of the slave on a neighbouring seat, over all of its streams: waiting messages, refusals."""

from __future__ import annotations

from collections.abc import Callable

from common.errors import MalformedError, UnreachableError
from common.net.data.pairs import Seat
from common.wire.boundary import Down, Lost, Message, Taken, Up
from slave.network.mail import Arrivals

# Pause after a sender's first refused message, doubled for each further one up to the last.
FIRST_SECONDS, LAST_SECONDS = 0.5, 60.0

ANSWERS = (Down, Taken, Lost)


class Correspondent:
    """Slave on a neighbouring seat under one lease.

    A new stream begins with the counts of the last: a slave that closes and opens streams can queue no more
    than on one stream.

    Args:
        seat: of the neighbour.
        incarnation: of the neighbour's lease.
        arrivals: messages that wait for the training thread.
        window: the most batches that the neighbour may have out without an answer; None: any number.
        clock: monotonic seconds.
    """

    def __init__(
        self, seat: Seat, incarnation: int, arrivals: Arrivals, window: int | None, clock: Callable[[], float]
    ) -> None:
        self.seat = seat
        self.incarnation = incarnation
        self._arrivals = arrivals
        self._window = window
        self._clock = clock
        self._unanswered: set[int] = set()
        self._pause = FIRST_SECONDS
        self._shut_until = 0.0
        self._reason = ""

    def check_welcome(self) -> None:
        """Refuse a stream soon after a refused message.

        Raises:
            UnreachableError: the neighbour has to wait.
        """
        left = self._shut_until - self._clock()
        if left > 0:
            raise UnreachableError(
                f"layer {self.seat[0]} replica {self.seat[1]} is heard again in {left:.1f} s, after a "
                f"refused message: {self._reason}"
            )

    def refuse(self, reason: str) -> None:
        """Note a refused message; streams are refused for twice the time of the last."""
        self._reason = reason
        self._shut_until = self._clock() + self._pause
        self._pause = min(2 * self._pause, LAST_SECONDS)

    def receive(self, message: Message) -> bool:
        """Queue a message for the training thread; False where the training thread does not keep up.

        Raises:
            MalformedError: the neighbour exceeds the window.
        """
        if isinstance(message, Up) and self._window is not None:
            self._unanswered.add(message.batch)
            if len(self._unanswered) > self._window:
                raise MalformedError(
                    f"incarnation {self.incarnation} has sent {len(self._unanswered)} unanswered batches; "
                    f"{self._window} are allowed"
                )
        return self._arrivals.put(message)

    def note_sent(self, message: Message) -> None:
        """Note a message for the neighbour: an answer makes room in the window."""
        if isinstance(message, ANSWERS):
            self._unanswered.discard(message.batch)
