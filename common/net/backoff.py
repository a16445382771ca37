"""Delays between attempts at a peer that is away."""

from __future__ import annotations

import math
from collections.abc import Callable

from common.errors import LayerwiseError, UnreachableError


class Backoff:
    """Delays that double from attempt to attempt, with jitter, until an attempt succeeds or patience ends.

    Deciding only: the caller sleeps, and stops sleeping when the caller is to stop.

    Args:
        clock: monotonic seconds.
        draw: uniform number from [0, 1), for the jitter.
        first: seconds before the second attempt, before jitter.
        longest: upper bound of the doubled seconds, before jitter.
        patience: seconds from the first failure in a row, after which a further failure is final.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        draw: Callable[[], float],
        *,
        first: float = 0.1,
        longest: float = 2.0,
        patience: float = math.inf,
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._first = first
        self._longest = longest
        self._patience = patience
        self._failing_since: float | None = None
        self._delay = first

    def reset(self) -> None:
        """Note a success: the next delay is the first one again."""
        self._failing_since, self._delay = None, self._first

    def be_patient(self) -> None:
        """Begin the patience anew, as the peer is there; the delays go on growing."""
        self._failing_since = None

    def next_delay(self) -> float:
        """Return the seconds until the next attempt: 0.5 to 1.5 times the doubled delay."""
        seconds = self._delay * (0.5 + self._draw())
        self._delay = min(2 * self._delay, self._longest)
        return seconds

    def delay_after(self, error: LayerwiseError) -> float:
        """Return the seconds until the next attempt after a failure, no more than are left of the patience.

        Raises:
            LayerwiseError: `error`, where time does not heal it or patience has ended.
        """
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if not isinstance(error, UnreachableError) or now - self._failing_since > self._patience:
            raise error
        delay, left = self.next_delay(), self._failing_since + self._patience - now
        # At the very end of the patience, the last attempt has the usual delay.
        return min(delay, left) if left > 0 else delay
