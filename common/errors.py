"""Every error the project raises on purpose, and what each becomes on the wire and at the shell.

An error's text is one line that says what is wrong, where (file, key, peer) and what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class LayerwiseError(Exception):
    """The root of the tree: something failed that is not the user's, a file's or a peer's doing.

    Attributes:
        status: name of the gRPC status code that carries the error.
        exit_code: what a command that ends by this error returns to the shell.
    """

    status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 4


class ConfigError(LayerwiseError):
    """The configuration, a command line, a user's file or the data cannot be used as they are."""

    status = "INVALID_ARGUMENT"
    exit_code = 2


class UnreachableError(LayerwiseError):
    """A peer does not answer."""

    status = "UNAVAILABLE"
    exit_code = 3


class StalledError(UnreachableError):
    """A peer began something and did not go on with it."""

    status = "DEADLINE_EXCEEDED"


class RefusedError(LayerwiseError):
    """A peer, a port or a directory is there, but will not have us."""

    status = "FAILED_PRECONDITION"
    exit_code = 3


class FencedError(RefusedError):
    """The sender's lease has passed to another: its incarnation is old."""

    status = "ABORTED"


class NotFoundError(RefusedError):
    """A shard, a layer or a snapshot of that name does not exist."""

    status = "NOT_FOUND"


class MalformedError(LayerwiseError):
    """A message is not what its type, its header or the registered table says; nothing was changed."""

    status = "INVALID_ARGUMENT"


class TooLargeError(LayerwiseError):
    """A message claims or needs more than the limits allow; nothing was allocated."""

    status = "RESOURCE_EXHAUSTED"


class RunFailedError(LayerwiseError):
    """The run cannot reach its end."""


class NoRoomError(RunFailedError):
    """The master's disk is full: what has to be kept cannot be. To who asks it is a master that is away."""

    status = "UNAVAILABLE"


# INVALID_ARGUMENT is both a ConfigError's and a MalformedError's: over the wire only the latter occurs.
FROM_STATUS: dict[str, type[LayerwiseError]] = {
    "UNAVAILABLE": UnreachableError,
    "DEADLINE_EXCEEDED": UnreachableError,
    "ABORTED": FencedError,
    "NOT_FOUND": NotFoundError,
    "FAILED_PRECONDITION": RefusedError,
    "PERMISSION_DENIED": RefusedError,
    "UNAUTHENTICATED": RefusedError,
    "INVALID_ARGUMENT": MalformedError,
    "RESOURCE_EXHAUSTED": TooLargeError,
}


def from_status(status: str, text: str) -> LayerwiseError:
    """The error that a gRPC status of that name stands for."""
    return FROM_STATUS.get(status, LayerwiseError)(text)
