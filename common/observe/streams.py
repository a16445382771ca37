"""Standard streams that neither end nor hold up a process: what cannot be written is dropped and reported."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from dataclasses import dataclass
from typing import Any, Self, TextIO

from common.errors import RefusedError
from common.text import say

# Standard error waits so long for a reader that takes nothing, then drops its lines.
PATIENCE_SECONDS = 1.0
# A descriptor that is ready takes a piece of this size without blocking.
PIECE_BYTES = 1024
# Errors of a reader that has gone for good: a closed pipe, a closed terminal.
GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)


class DroppingWriter(io.RawIOBase):
    """Raw writer of a descriptor that reports every write as done.

    Args:
        descriptor: open for writing; stays open.
        patience: seconds to wait for a reader, after which bytes are dropped, and their number is written
            once the reader takes bytes again. None: wait without end, write no number.

    Attributes:
        dropped: number of bytes dropped.
        error: last error of a write.
        gone: True once the reader has gone for good.
    """

    def __init__(self, descriptor: int, patience: float | None) -> None:
        super().__init__()
        self.dropped = 0
        self.error: OSError | None = None
        self.gone = False
        self._descriptor = descriptor
        self._patience = patience
        self._stalled = False
        self._unreported = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write as much as the reader takes, drop the rest, and return the size of the whole."""
        view = memoryview(data).cast("B")
        if self._unreported and self._patience is not None:
            note = f"\nlayerwise: {self._unreported} bytes of output could not be written and were dropped\n"
            if not self._put(memoryview(note.encode())):
                self._unreported = 0
        lost = self._put(view)
        self.dropped += lost
        self._unreported += lost
        return len(view)

    def _put(self, view: memoryview) -> int:
        """Write a part of the bytes, and return the number of the others."""
        try:
            while view and self._is_ready():
                view = view[self._write_piece(view) :]
        except OSError as error:
            self.error = error
            self.gone = error.errno in GONE
        return len(view)

    def _is_ready(self) -> bool:
        if self.gone:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        # After one wait in vain, further lines are dropped at once.
        milliseconds = None if self._patience is None else 0.0 if self._stalled else 1000 * self._patience
        self._stalled = not poll.poll(milliseconds)
        return not self._stalled

    def _write_piece(self, view: memoryview) -> int:
        try:
            return os.write(self._descriptor, view[:PIECE_BYTES])
        except BlockingIOError:  # another process made the shared terminal or pipe non-blocking
            return 0


@dataclass
class StandardStreams:
    """Standard output and standard error of this process, made to drop what cannot be written."""

    output: TextIO
    output_writer: DroppingWriter | None

    @classmethod
    def install(cls) -> Self:
        """Replace `sys.stdout` and `sys.stderr`."""
        sys.stdout, writer = _wrap(sys.stdout, None)
        sys.stderr, _ = _wrap(sys.stderr, PATIENCE_SECONDS)
        return cls(sys.stdout, writer)

    def close(self, code: int) -> int:
        """Flush, report what standard output has lost, and return the exit code.

        A reader that closes a pipe, such as `head`, or a closed terminal, has had enough: no report, and the
        code stays. After any other loss a result is incomplete, and 0 becomes 3.
        """
        self.output.flush()
        writer = self.output_writer
        if writer is None or writer.error is None or not writer.dropped or writer.gone:
            return code
        reason = writer.error.strerror or str(writer.error)
        say(f"layerwise: standard output: {reason}; {writer.dropped} bytes of output were dropped")
        return code or RefusedError.exit_code


def is_output_gone() -> bool:
    """Whether the reader of standard output has gone for good: whatever is only shown there may end."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, DroppingWriter) and raw.gone


def _wrap(stream: TextIO | None, patience: float | None) -> tuple[TextIO, DroppingWriter | None]:
    """Wrap a standard stream; a stream without a descriptor stays as it is."""
    if stream is None:  # the descriptor was closed before the start
        return open(os.devnull, "w", encoding="utf-8"), None
    try:
        writer = DroppingWriter(stream.fileno(), patience)
    except (OSError, ValueError):
        return stream, None
    with contextlib.suppress(OSError):
        stream.flush()
    buffer = io.BufferedWriter(writer)
    # Names of files need not be text in the terminal's encoding.
    wrapped = io.TextIOWrapper(buffer, stream.encoding, errors="backslashreplace", line_buffering=True)
    return wrapped, writer
