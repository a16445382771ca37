"""Errors raised on purpose, with gRPC status and exit code.

An error's text is one line that says what is wrong, where (file, key, peer) and what to do next.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class LayerwiseError(Exception):
    """Root of the tree: a failure not caused by the user, a file or a peer.

    Attributes:
        status: name of the gRPC status code that carries the error.
        exit_code: value that a command which ends with this error returns to the shell.
    """

    status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 4


class ConfigError(LayerwiseError):
    """The configuration, a command line, a user's file or the data cannot be used."""

    status = "INVALID_ARGUMENT"
    exit_code = 2


class UnreachableError(LayerwiseError):
    """A peer does not answer."""

    status = "UNAVAILABLE"
    exit_code = 3


class AbsentError(UnreachableError):
    """No process answers at an address.

    Args:
        reason: of the system, in short.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"no process answers ({reason})")
        self.reason = reason


class StalledError(UnreachableError):
    """A peer has begun a message or a call and stopped before the end."""

    status = "DEADLINE_EXCEEDED"


class RefusedError(LayerwiseError):
    """A peer, a port or a directory exists, but refuses the request."""

    status = "FAILED_PRECONDITION"
    exit_code = 3


class FencedError(RefusedError):
    """The sender's incarnation is old: the lease has passed to a newer incarnation."""

    status = "ABORTED"


class UnprovenError(RefusedError):
    """A caller has not shown what proves it to be the one that it claims to be."""

    status = "UNAUTHENTICATED"


class ForbiddenError(RefusedError):
    """A caller is known, and has no right to the method."""

    status = "PERMISSION_DENIED"


class NotFoundError(RefusedError):
    """No shard, layer or snapshot has the requested name."""

    status = "NOT_FOUND"


class MalformedError(LayerwiseError):
    """A message contradicts the type, the header or the registered table; state is unchanged."""

    status = "INVALID_ARGUMENT"


class TooLargeError(LayerwiseError):
    """A message claims or needs more than the limits allow; refused before allocation."""

    status = "RESOURCE_EXHAUSTED"


class RunFailedError(LayerwiseError):
    """The run cannot reach the end."""


class NoRoomError(RunFailedError):
    """The master's disk is full, and state cannot be saved; clients treat the master as unreachable."""

    status = "UNAVAILABLE"


# ConfigError and MalformedError share INVALID_ARGUMENT; only MalformedError travels over the wire.
FROM_STATUS: dict[str, type[LayerwiseError]] = {
    "UNAVAILABLE": UnreachableError,
    "DEADLINE_EXCEEDED": UnreachableError,
    "ABORTED": FencedError,
    "NOT_FOUND": NotFoundError,
    "FAILED_PRECONDITION": RefusedError,
    "PERMISSION_DENIED": ForbiddenError,
    "UNAUTHENTICATED": UnprovenError,
    "INVALID_ARGUMENT": MalformedError,
    "RESOURCE_EXHAUSTED": TooLargeError,
}


def from_status(status: str, text: str) -> LayerwiseError:
    """Build the error for the gRPC status named `status`, with `text` as its message."""
    return FROM_STATUS.get(status, LayerwiseError)(text)


# Advice by error number of the system. These errors are mended by another path, the others at the machine.
_PATH_ADVICE = {
    errno.ENOENT: "give a path that exists",
    errno.ENOTDIR: "give a path whose folders are folders",
    errno.EISDIR: "give a file",
    errno.EEXIST: "give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "give a path without a circle of links",
    errno.EACCES: "see to its permissions, or give another path",
    errno.EPERM: "see to its permissions, or give another path",
    errno.EROFS: "give a path on a disk that can be written",
    errno.EINVAL: "give another path",
}
_MACHINE_ADVICE = {
    errno.ENOSPC: "free disk space, or give a path on another disk",
    errno.EDQUOT: "free space within your quota, or give a path on another disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close programs: the machine's table of open files is full",
    errno.ENOMEM: "free memory",
    errno.EIO: "check the disk, or give a path on another disk",
}


def from_os_error(error: OSError) -> LayerwiseError:
    """Build the error for a call of the system that failed: `ConfigError` for a path, else `RefusedError`."""
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    what = error.strerror or str(error)
    text = f"{' -> '.join(paths)}: {what}" if paths else f"a call of the system failed: {what}"
    if paths and error.errno in _PATH_ADVICE:
        return ConfigError(f"{text}; {_PATH_ADVICE[error.errno]}")
    advice = _MACHINE_ADVICE.get(error.errno or 0, "correct the cause, and repeat the command")
    return RefusedError(f"{text}; {advice}")
