"""gRPC channels to the control port of a master, whose certificates may change meanwhile."""

from __future__ import annotations

import re
import threading
from types import TracebackType
from typing import Any, Self

import grpc

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.errors import AbsentError, LayerwiseError
from common.net.addresses import check_link
from common.net.identity import MASTER_NAME, Identity
from common.net.probing import find_refusal

# gRPC's own text for an address at which nobody listens, and the system's reason in the text.
_ABSENT, _REASON = "failed to connect to all addresses", re.compile(r"remote host: (?:connect: )?([^():]+)")
_UNKNOWN = "no connection"

OPTIONS = [
    ("grpc.max_send_message_length", LARGEST_SIGNAL_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_CHANNEL_OPTIONS = [
    *OPTIONS,
    ("grpc.max_receive_message_length", LARGEST_SIGNAL_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite the name the bound of an attempt: two round trips to a far or crowded peer.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Channels of a process must not share a connection: large messages would hold up urgent ones.
    ("grpc.use_local_subchannel_pool", 1),
    # Proxies of the environment serve the world outside a cluster.
    ("grpc.enable_http_proxy", 0),
]
# Statuses of a call that has reached nobody.
_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_SECURE_OPTIONS = [*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", MASTER_NAME)]


class Channels:
    """Channels to an address, one after the other: certificates that change need a new channel.

    Safe for several threads.

    Args:
        module: grpc for blocking calls, grpc.aio for calls of an event loop.
        address: HOST:PORT.
        identity: certificates; None: in the clear.
    """

    def __init__(self, module: Any, address: str, identity: Identity | None) -> None:
        check_link(address)
        self._module = module
        self._address = address
        self._identity = identity
        self._lock = threading.Lock()
        self._generation: object = None
        self._present: Any = None
        # The calls of the last channel end in time.
        self._last: Any = None

    def present(self) -> tuple[Any, Any]:
        """Return the channel for the next call, and a channel that must be closed, if any."""
        generation = self._identity.generation() if self._identity else ""
        with self._lock:
            old = None
            if generation != self._generation:
                old, self._last, self._present = self._last, self._present, self._open()
                self._generation = generation
            return self._present, old

    def _open(self) -> Any:
        if self._identity is None:
            return self._module.insecure_channel(self._address, options=_CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(*self._identity.contents())
        return self._module.secure_channel(self._address, credentials, options=_SECURE_OPTIONS)

    def all(self) -> list[Any]:
        """Return every channel that is open."""
        return [each for each in (self._present, self._last) if each is not None]

    def refusal(self) -> LayerwiseError | None:
        """Return why the port cannot be spoken to, where TLS is the reason; blocks for seconds.

        Raises:
            ConfigError: the address is not HOST:PORT.
        """
        return find_refusal(self._address, self._identity)


class Channel:
    """Channel of blocking calls."""

    def __init__(self, address: str, identity: Identity | None = None) -> None:
        self._channels = Channels(grpc, address, identity)
        self._answered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _present(self) -> Any:
        channel, old = self._channels.present()
        if old is not None:
            old.close()
        return channel

    def unary_unary(self, *arguments: Any) -> Any:
        """Return a callable for a method, as `grpc.Channel` does."""
        return self._present().unary_unary(*arguments)

    def unary_stream(self, *arguments: Any) -> Any:
        """Return a callable for a method, as `grpc.Channel` does."""
        return self._present().unary_stream(*arguments)

    def stream_stream(self, *arguments: Any) -> Any:
        """Return a callable for a method, as `grpc.Channel` does."""
        return self._present().stream_stream(*arguments)

    def note_answer(self) -> None:
        """Note that a call was answered: what fails later is no disagreement about TLS."""
        self._answered = True

    def explain(self, error: grpc.RpcError) -> LayerwiseError | None:
        """Return the cause of a call without an answer, where TLS is the cause; blocks for seconds."""
        known = self._answered or error.code() not in _SILENT or _is_plainly_absent(error)
        return None if known else self._channels.refusal()

    def close(self) -> None:
        """End every call and connection."""
        for channel in self._channels.all():
            channel.close()


class AsyncChannel:
    """Channel of an event loop's calls."""

    def __init__(self, address: str, identity: Identity | None = None) -> None:
        self._channels = Channels(grpc.aio, address, identity)
        self._old: list[Any] = []

    def _present(self) -> Any:
        channel, old = self._channels.present()
        if old is not None:
            self._old.append(old)
        return channel

    def unary_unary(self, *arguments: Any) -> Any:
        """Return a callable for a method, as `grpc.aio.Channel` does."""
        return self._present().unary_unary(*arguments)

    def stream_stream(self, *arguments: Any) -> Any:
        """Return a callable for a method, as `grpc.aio.Channel` does."""
        return self._present().stream_stream(*arguments)

    async def close(self) -> None:
        """End every call and connection."""
        for channel in [*self._old, *self._channels.all()]:
            await channel.close()


def absence(error: grpc.RpcError) -> AbsentError | None:
    """Return the error of a call to an address without a master; None for other failures."""
    details = error.details() or ""
    if not details.startswith(_ABSENT):
        return None
    reason = _REASON.search(details)
    return AbsentError(reason[1] if reason else _UNKNOWN)


def _is_plainly_absent(error: grpc.RpcError) -> bool:
    """Whether the system itself says that nobody listens."""
    absent = absence(error)
    return absent is not None and absent.reason != _UNKNOWN
