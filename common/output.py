"""Standard output while a user's code may run: whatever is written goes to standard error.

Standard output carries the result of a command alone. Prints of a user's file, of C code and of processes
that the file starts are kept away by the file descriptor, not by the object `sys.stdout`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_STDOUT, _STDERR = 1, 2


@contextlib.contextmanager
def divert_output() -> Iterator[None]:
    """Send standard output to standard error inside the context, for this process and for its children."""
    _flush()
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # closed by the caller of the command: nothing is written there
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    try:
        _point_at_stderr()
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)


def end_output() -> None:
    """Send standard output to standard error until the process ends: the result has been written."""
    _flush()
    _point_at_stderr()


def _point_at_stderr() -> None:
    with contextlib.suppress(OSError):  # standard error is closed
        os.dup2(_STDERR, _STDOUT)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)
