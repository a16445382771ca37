"""Budget of frames that bring no payload, for one connection."""

from __future__ import annotations

import time

from common.net.http2.frames import Code, ProtocolError

# Frames without payload that a peer may send within a period, beside the frames that payload earns.
MOST_IDLE_FRAMES = 1000
PERIOD_SECONDS = 10.0
# A whole read or write of payload earns so many: updates of windows, pings, trailers.
EARNED_FRAMES = 16
# A DATA frame with fewer bytes counts as a frame without payload. Of other frames, and of data that belong to
# no open stream, so many bytes count as a further frame.
SMALL_DATA_BYTES, SMALL_FRAME_BYTES, UNWANTED_DATA_BYTES = 64, 256, 64 << 10


class FrameBudget:
    """Frames without payload that the peer may still send; a counter, with a clock at zero alone."""

    def __init__(self) -> None:
        self._left = MOST_IDLE_FRAMES
        self._renewed_at = time.monotonic()

    def spend(self, frames: int = 1) -> None:
        """Count frames without payload.

        Raises:
            ProtocolError: the peer sends more such frames than any honest peer needs.
        """
        self._left -= frames
        if self._left < 0:
            self._renew()

    def earn(self, frames: int = EARNED_FRAMES) -> None:
        """Allow further frames, as payload has moved."""
        if self._left < MOST_IDLE_FRAMES:
            self._left += frames

    def _renew(self) -> None:
        now = time.monotonic()
        if now - self._renewed_at < PERIOD_SECONDS:
            raise ProtocolError(
                Code.ENHANCE_YOUR_CALM,
                f"over {MOST_IDLE_FRAMES} frames without payload in {PERIOD_SECONDS:g} s",
            )
        self._left, self._renewed_at = MOST_IDLE_FRAMES, now
