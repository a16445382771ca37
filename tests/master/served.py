"""Master that serves on loopback, and a client of generated classes, as in any language."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from google.protobuf.message import DecodeError

from common.config.files import load
from common.credentials import NOBODY, SECRET_CHARACTERS, Credentials
from common.net import control
from common.net.channels import Channel
from common.net.identity import Identity
from common.net.tokens import JOIN_TOKEN, OPERATOR_TOKEN, read_token
from common.wire import methods
from common.wire.messages import JoinReply, JoinRequest, LeaveRequest
from common.wire.methods import Method
from master.disk.state import StateDirectory
from master.service import Master, Ports
from protos import layerwise_pb2 as pb

Result = TypeVar("Result")

# The most that any wait here may take; nothing waits for it unless it fails.
DEADLINE = 20.0


class Served:
    """Master of three layers on free ports. No tick fails a lease: tests leave instead.

    Args:
        folder: state directory.
        settings: of the configuration.
        identity: certificates of the master.
        caller: certificates of `channel`.
    """

    def __init__(
        self, folder: Path, *settings: str, identity: Identity | None = None, caller: Identity | None = None
    ) -> None:
        self._identity = identity
        self.state = StateDirectory(folder)
        self.master = Master(load(None, ["network.cuts=[1, 2]", *settings]), self.state)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.ports, self.address, port = self.do(self._open("127.0.0.1:0"))
        self.channel = control.channel(self.address, caller)
        self.data_address = f"127.0.0.1:{port}"
        self.joiner = Credentials(token=read_token(folder / JOIN_TOKEN, "join"))
        self.operator = Credentials(token=read_token(folder / OPERATOR_TOKEN, "operator"))
        # Of the leases that this object has taken, by incarnation.
        self.secrets: dict[int, str] = {}
        self.client = Client(self.data_address, self.secrets)

    def start_another(self) -> None:
        """Start a second server on the master's port."""
        self.do(self._open(self.address))

    async def _open(self, listen: str) -> tuple[Ports, str, int]:
        ports = Ports(self.master, identity=self._identity)
        return ports, *await ports.open(listen, 0)

    def do(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the server's event loop."""
        waiting: Future[Result] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return waiting.result(DEADLINE)

    def join(self, slave: str) -> JoinReply:
        """Take a lease on the lowest free layer."""
        reply = control.call(
            self.channel, methods.JOIN, JoinRequest(slave, key=key_of(slave)), shown=self.joiner
        )
        self.secrets[reply.incarnation] = reply.secret
        return reply

    def leave(self, incarnation: int) -> None:
        """Give a lease back; the incarnation is fenced."""
        self.call(methods.LEAVE, LeaveRequest(incarnation))

    def call(self, method: Method[Any, Result], request: Any) -> Result:
        """Call a method of the control port, with the secret of the lease that the request names."""
        return control.call(self.channel, method, request, shown=self.shown(request.incarnation))

    def shown(self, incarnation: int) -> Credentials:
        """Credentials of a lease; without a secret if the lease is not known."""
        return Credentials(incarnation, self.secrets.get(incarnation, ""))

    def close(self) -> None:
        """Stop the server and its thread, and close the files."""
        self.client.close()
        self.channel.close()
        self.do(self.ports.close(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()
        self.state.close()


@contextmanager
def served(
    folder: Path, *settings: str, identity: Identity | None = None, caller: Identity | None = None
) -> Iterator[Served]:
    """A master for a test."""
    running = Served(folder, *settings, identity=identity, caller=caller)
    try:
        yield running
    finally:
        running.close()


class Stream:
    """Open bidirectional stream with deadlines for writes and reads.

    Args:
        bound: begins the call.
        identify: returns the metadata for the first message; None: the call begins at once, without any.
    """

    def __init__(self, bound: Any, identify: Callable[[Any], Any] | None = None) -> None:
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._bound = bound
        self._identify = identify
        self._begun: Any = None
        if identify is None:
            self._begin(None)

    def _begin(self, metadata: Any) -> None:
        self._begun = self._bound(iter(self._outgoing.get, None), timeout=DEADLINE, metadata=metadata)

    @property
    def _call(self) -> Any:
        if self._begun is None:
            self._begin(None)
        return self._begun

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._outgoing.put(None)
        self._call.cancel()

    def write(self, *messages: Any) -> None:
        """Send messages."""
        for message in messages:
            if self._begun is None and self._identify is not None:
                self._begin(self._identify(message))
            self._outgoing.put(message)

    def read(self) -> Any:
        """Read the next message; None at the stream's end.

        Raises:
            grpc.RpcError: the stream was ended with an error.
        """
        return next(self._call, None)

    def end(self) -> None:
        """Send no more."""
        if self._begun is None and self._identify is not None:
            self._begin(self._identify(b""))
        self._outgoing.put(None)


class Client:
    """Client of Parameters and Boundary by generated classes, with a connection per call.

    Args:
        address: a data port.
        secrets: of leases by incarnation, shown with calls whose first message names the incarnation.
    """

    def __init__(self, address: str, secrets: Mapping[int, str] | None = None) -> None:
        self._address = address
        self._secrets = {} if secrets is None else secrets
        self._channels: list[Channel] = []

    def close(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            channel.close()

    def _connect(self) -> Channel:
        self._channels.append(control.channel(self._address))
        return self._channels[-1]

    def push(self, frames: Iterable[Any]) -> list[Any]:
        """Send frames, and give every reply."""
        found = list(frames)
        return list(self._push()(iter(found), timeout=DEADLINE, metadata=self._identify(*found[:1])))

    def pushing(self) -> Stream:
        """Open a stream of pushes, which begins with the first of them."""
        return Stream(self._push(), self._identify)

    def _push(self) -> Any:
        return self._connect().stream_stream(
            "/layerwise.v1.Parameters/Push", _bytes_of, pb.PushReply.FromString
        )

    def pull(self, shard: str, incarnation: int = 0) -> Iterator[Any]:
        """The frames of a shard."""
        bound = self._connect().unary_stream(
            "/layerwise.v1.Parameters/Pull", pb.PullRequest.SerializeToString, pb.Frame.FromString
        )
        request = pb.PullRequest(shard=shard, incarnation=incarnation)
        frames: Iterator[Any] = bound(request, timeout=DEADLINE, metadata=self._metadata(incarnation))
        return frames

    def unary(self, path: str, request: bytes) -> bytes:
        """Call a unary method with raw bytes."""
        return call_raw(self._connect(), path, request)

    def exchange(self) -> Stream:
        """A stream of boundary messages, not yet introduced."""
        return Stream(
            self._connect().stream_stream(
                "/layerwise.v1.Boundary/Exchange", _bytes_of, pb.BoundaryMessage.FromString
            ),
            self._identify if self._secrets else None,
        )

    def _metadata(self, incarnation: int) -> list[tuple[str, str]]:
        return Credentials(incarnation, self._secrets.get(incarnation, "")).metadata()

    def _identify(self, message: Any = b"") -> list[tuple[str, str]]:
        """Build the metadata that shows the lease of a first message; the newest lease if it names none."""
        return self._metadata(named_incarnation(message) or max(self._secrets, default=0))


def call_raw(channel: Channel, path: str, request: bytes, shown: Credentials = NOBODY) -> bytes:
    """Call a unary method with raw bytes."""
    answer: bytes = channel.unary_unary(path)(request, timeout=DEADLINE, metadata=shown.metadata())
    return answer


def key_of(slave: str) -> str:
    """Return the key with which a slave of a name joins."""
    return slave.encode().hex().ljust(SECRET_CHARACTERS, "0")


def named_incarnation(message: Any) -> int:
    """Return the incarnation that a frame, a boundary message or a question names; 0 without one."""
    if isinstance(message, bytes):
        try:
            message = pb.Frame.FromString(message)
        except DecodeError:
            return 0
    header = message.header if isinstance(message, pb.Frame) else message
    return int(header.incarnation)


def _bytes_of(message: Any) -> bytes:
    """Encode a generated message; pass raw bytes through."""
    return message if isinstance(message, bytes) else message.SerializeToString()
