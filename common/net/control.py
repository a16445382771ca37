"""Control plane: gRPC channels and servers with limits and deadlines, and errors as statuses."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import grpc

from common import errors
from common.bounds import SMALL_MESSAGE_BYTES
from common.credentials import (
    NOBODY,
    Admit,
    Certificate,
    Credentials,
    check_same,
    credentials_of,
    note_caller,
)
from common.errors import LayerwiseError, MalformedError, StalledError, TooLargeError, UnreachableError
from common.lifecycle import file_limit
from common.net.addresses import cannot_listen, split_address
from common.net.channels import OPTIONS, AsyncChannel, Channel, absence
from common.net.data.places import Bounds
from common.net.guard import Call, Calls, Guard
from common.net.http2.handshakes import end_of, name_certificate
from common.net.identity import Identity
from common.net.lasting import LastingServer
from common.net.listening import numeric_host
from common.net.own_sockets import peer_of
from common.wire.methods import Method

Request = TypeVar("Request")
Reply = TypeVar("Reply")

UNARY_SECONDS = 10.0
# Between two looks during a call that is watched.
LOOK_SECONDS = 0.1

# Details of the INTERNAL error of grpc.aio for a write to a stream that the peer has just ended
# (grpc/grpc#36066). The peer's own status is lost; another call gets it.
_WRITTEN_TOO_LATE = "Internal error from Core"

# Streams that a peer may have open on a connection: a slave has its calls and a stream of served synthesis.
MOST_STREAMS = 32
# A connection that has not begun HTTP/2 after so long ends; the library's own bound is two minutes.
_BEGIN_MILLISECONDS = 10_000
# Part of this process' files for connections: the data port, shards and snapshots need the rest.
_CONNECTIONS_PER_FILE = 0.5
# Connections without a call end after so long, and the others are opened anew after so long.
_IDLE_MILLISECONDS, _OLDEST_MILLISECONDS = 300_000, 3_600_000
# A connection makes a first call that it may make within so long, and a call sends its message.
OPENING_SECONDS = 10.0

# The library's options are numbers of 32 bits.
_LARGEST_OPTION = 2**31 - 1

_SERVER_OPTIONS = [
    *OPTIONS,
    # By default two servers would share a port unnoticed.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", MOST_STREAMS),
    ("grpc.server_handshake_timeout_ms", _BEGIN_MILLISECONDS),
    ("grpc.max_connection_idle_ms", _IDLE_MILLISECONDS),
    ("grpc.max_connection_age_ms", _OLDEST_MILLISECONDS),
    # A peer that pings more often is sent away.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 2),
]


def channel(address: str, identity: Identity | None = None) -> Channel:
    """Open a channel for blocking calls; without an identity in the clear."""
    return Channel(address, identity)


def async_channel(address: str, identity: Identity | None = None) -> AsyncChannel:
    """Open a channel for calls of an event loop; without an identity in the clear."""
    return AsyncChannel(address, identity)


def call(
    peer: Channel,
    method: Method[Request, Reply],
    request: Request,
    seconds: float = UNARY_SECONDS,
    shown: Credentials = NOBODY,
) -> Reply:
    """Make a unary call that blocks, and show credentials.

    Raises:
        LayerwiseError: the error that the peer's status stands for.
    """
    bound = peer.unary_unary(method.path, method.request.encode, method.reply.decode)
    try:
        reply = cast(Reply, bound(request, timeout=seconds, metadata=shown.metadata()))
    except grpc.RpcError as error:
        raise peer.explain(error) or error_of(error, method) from None
    peer.note_answer()
    return reply


def call_watching(
    peer: Channel,
    method: Method[Request, Reply],
    request: Request,
    seconds: float,
    look: Callable[[], None],
    shown: Credentials = NOBODY,
) -> Reply:
    """Make a unary call as `call` does; `look` is called often meanwhile, and may raise to give the call up.

    Raises:
        LayerwiseError: the error that the peer's status stands for.
    """
    calling = peer.unary_unary(method.path, method.request.encode, method.reply.decode).future(
        request, timeout=seconds, metadata=shown.metadata()
    )
    try:
        while True:
            try:
                reply = cast(Reply, calling.result(LOOK_SECONDS))
            except grpc.FutureTimeoutError:
                look()
            else:
                peer.note_answer()
                return reply
    except grpc.RpcError as error:
        raise peer.explain(error) or error_of(error, method) from None
    finally:
        calling.cancel()


async def async_call(
    peer: Any,
    method: Method[Request, Reply],
    request: Request,
    seconds: float = UNARY_SECONDS,
    shown: Credentials = NOBODY,
) -> Reply:
    """Make a unary call of an event loop, and show credentials.

    Raises:
        LayerwiseError: the error that the peer's status stands for.
    """
    bound = peer.unary_unary(method.path, method.request.encode, method.reply.decode)
    try:
        return cast(Reply, await bound(request, timeout=seconds, metadata=shown.metadata()))
    except grpc.RpcError as error:
        raise error_of(error, method) from None


def async_stream(peer: Any, method: Method[Request, Reply], shown: Credentials = NOBODY) -> Any:
    """Open a bidirectional stream of an event loop, as grpc.aio's call object, and show credentials."""
    bound = peer.stream_stream(method.path, method.request.encode, method.reply.decode)
    return bound(metadata=shown.metadata())


def error_of(error: grpc.RpcError, method: Method[Any, Any]) -> LayerwiseError:
    """Return the project's error for a failed call."""
    code = error.code()
    if error.details() == _WRITTEN_TOO_LATE:
        return UnreachableError(f"{method.service}.{method.name}: the peer has ended the stream")
    # A server that ends cancels calls that wait for it; whoever cancels a call of his own does not ask.
    if code is grpc.StatusCode.CANCELLED:
        return UnreachableError(f"{method.service}.{method.name}: the peer has ended the call")
    if absent := absence(error):
        return absent
    text = error.details() or f"{method.service}.{method.name} failed with {code.name}"
    return errors.from_status(code.name, text)


Unary = Callable[[Any], Awaitable[Any]]
Streaming = Callable[[Any], AsyncIterator[Any]]
Decoder = Callable[[bytes], Any]


class ControlServer:
    """gRPC server of an event loop.

    Args:
        on_error: takes the error of each call that fails.
        admit: takes path and credentials of each call; raises LayerwiseError to refuse the caller.
        identity: certificates; None: in the clear.
        bounds: of connections, and of the calls under way of callers without a lease.
    """

    def __init__(
        self,
        on_error: Callable[[LayerwiseError], None] = lambda _: None,
        admit: Admit = lambda *_: None,
        identity: Identity | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> None:
        self._server = LastingServer(self._make, self._add_port, on_error)
        self._largest = SMALL_MESSAGE_BYTES
        self._handlers: dict[str, dict[str, Any]] = {}
        self._on_error = on_error
        self._admit = admit
        self._identity = identity
        self._guard = Guard(bounds, on_error, OPENING_SECONDS)
        self._calls = Calls(bounds)

    def add(self, method: Method[Any, Any], handler: Unary | Streaming, most: int | None = None) -> None:
        """Serve a method: `handler` answers a request, or an iterator of requests if the method streams.

        A request is read once the caller has been admitted, and decoded here: grpc would answer INTERNAL to a
        malformed request.

        Args:
            method: to serve.
            handler: a coroutine function, or an async generator function if the method streams answers.
            most: bound of a request in bytes; None: the bound of the method.
        """
        most = method.request_bytes if most is None else most
        self._largest = max(self._largest, most)
        kind, wrapped = self._wrapped(method, handler, _bounded(method, most))
        service = method.path.split("/")[1]
        self._handlers.setdefault(service, {})[method.name] = kind(
            wrapped, request_deserializer=None, response_serializer=method.reply.encode
        )

    def _wrapped(self, method: Method[Any, Any], handler: Any, decode: Decoder) -> tuple[Any, Any]:
        async def unary(raw: AsyncIterator[bytes], context: Any) -> Any:
            try:
                with self._admitted(method, context) as (shown, call):
                    return await handler(_of_caller(decode(await _first(raw, call)), shown))
            except LayerwiseError as error:
                await self._abort(context, error)

        async def both(raw: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            try:
                with self._admitted(method, context) as (shown, _):
                    async for reply in handler(_decoded(raw, decode, shown)):
                        yield reply
            except LayerwiseError as error:
                await self._abort(context, error)

        # To the library every request is a stream: it would read others before the handler is asked.
        if method.streams_requests:
            return grpc.stream_stream_rpc_method_handler, both
        return grpc.stream_unary_rpc_method_handler, unary

    @contextmanager
    def _admitted(self, method: Method[Any, Any], context: Any) -> Iterator[tuple[Credentials, Call]]:
        """Context of a call of a caller that may call the method; yields the credentials and the call."""
        certificate = _certificate_in(context.auth_context()) if self._identity else None
        shown = credentials_of(context.invocation_metadata(), certificate)
        self._admit(method.path, shown)
        note_caller(shown)
        peer = peer_of(context.peer())
        self._guard.note(peer, shown.incarnation, certificate.ends if certificate else math.inf)
        with self._calls.place(peer, shown.incarnation) as call:
            yield shown, call

    async def _abort(self, context: Any, error: LayerwiseError) -> None:
        self._on_error(error)
        await context.abort(grpc.StatusCode[error.status], str(error))

    async def start(self, address: str) -> str:
        """Listen; returns the address with the port that was taken (`:0` takes a free one).

        Raises:
            RefusedError: the address cannot be listened on.
        """
        host, port = split_address(address)
        try:
            port = await self._server.start(numeric_host(host), port)
        except OSError as error:
            raise cannot_listen("--listen", host, port, error.strerror) from None
        except RuntimeError:
            raise cannot_listen("--listen", host, port) from None
        self._guard.start(port)
        return f"{host}:{port}"

    def _make(self) -> Any:
        """Make a server of the library's, with the methods and no port."""
        most = min(int(file_limit() * _CONNECTIONS_PER_FILE), _LARGEST_OPTION)
        options = [
            *_SERVER_OPTIONS,
            # The library reads a whole message before its method can refuse the message.
            ("grpc.max_receive_message_length", self._largest),
            ("grpc.max_allowed_incoming_connections", most),
        ]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(name, methods)
                for name, methods in self._handlers.items()
            )
        )
        return server

    def _add_port(self, server: Any, address: str) -> int:
        if self._identity is None:
            return int(server.add_insecure_port(address))
        configure = partial(_configuration, self._identity)
        credentials = grpc.dynamic_ssl_server_credentials(
            configure(), configure, require_client_authentication=True
        )
        return int(server.add_secure_port(address, credentials))

    async def stop(self, grace: float) -> None:
        """Take no more calls, and end the calls under way after `grace` seconds."""
        await self._server.stop(grace)
        self._guard.stop()


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    """Return the present certificates; the library asks at each handshake."""
    ca, key, certificate = identity.contents()
    return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)


def _certificate_in(facts: Mapping[str, Iterable[bytes]]) -> Certificate | None:
    """Return the facts of a caller's certificate in gRPC's words; None for a caller without one."""

    def texts(name: str) -> list[str]:
        return [each.decode("utf-8", "replace") for each in facts.get(name, ())]

    if not (own := texts("x509_pem_cert")):
        return None
    encoded, common = ssl.PEM_cert_to_DER_cert(own[0]), texts("x509_common_name")
    # gRPC cuts names at a zero byte: what is left may be another's role.
    uris = [uri for uri in texts("peer_uri") if uri.encode() + b"\0" not in encoded]
    return name_certificate(common[0] if common else "", uris, texts("peer_dns"), end_of(encoded))


def _bounded(method: Method[Any, Any], most: int) -> Decoder:
    """Return a decoder that refuses a request above its bound before the request is parsed."""

    def decode(raw: bytes) -> Any:
        if len(raw) > most:
            raise TooLargeError(f"{method.service}.{method.name}: {len(raw)} bytes; at most {most}")
        return method.request.decode(raw)

    return decode


def _of_caller(request: Any, shown: Credentials) -> Any:
    """Return a request, if an incarnation in it is the one whose secret the call has shown."""
    check_same(getattr(request, "incarnation", shown.incarnation), shown.incarnation)
    return request


async def _first(raw: AsyncIterator[bytes], call: Call) -> bytes:
    """Read the request of a call with one.

    Raises:
        StalledError: the request does not come in time.
        UnreachableError: a newer call has taken the place meanwhile.
        MalformedError: the call has none.
    """
    try:
        async with asyncio.timeout(OPENING_SECONDS) as call.waiting:
            async for each in raw:
                return each
    except TimeoutError:
        if call.ended:
            raise UnreachableError("the call has given its place to a newer one; call again later") from None
        raise StalledError(f"no request came within {OPENING_SECONDS:g} s of the call's begin") from None
    finally:
        call.waiting = None
    raise MalformedError("the call has no request")


async def _decoded(raw: AsyncIterator[bytes], decode: Decoder, shown: Credentials) -> AsyncIterator[Any]:
    try:
        async for each in raw:
            yield _of_caller(decode(each), shown)
    except grpc.aio.UsageError:  # grpc's error for a call that ended while its messages were read
        return
