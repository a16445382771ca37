"""Ways to fuzz a cluster: before and after authentication, at every port."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.credentials import NOBODY, Credentials
from common.errors import LayerwiseError
from common.net.data.pairs import Ends, prove_hello
from common.shards.pushes import PullRequest, PushReply
from common.shards.table import lay_out
from common.wire import messages as m
from common.wire import methods
from common.wire.methods import METHODS, Method
from common.wire.payloads import decode_boundary, encode_boundary
from tests.faults.fuzz.cluster import BATCH_SIZE, OPERATOR, READER, TABLES, WIDTH, Cluster, slave_name
from tests.faults.fuzz.mutation import EDGES, Mutator, PushFuzzer
from tests.faults.fuzz.talking import HELLO, PING, Answer, Port, StuckError, call, understand

MINE, SLAVE, OTHER = (slave_name(number) for number in (1, 2, 3))
# Statuses of errors that nobody has raised on purpose, and texts of gRPC's own answers with them.
DEFECTS = ("INTERNAL", "UNKNOWN", "DATA_LOSS")
OF_GRPC = ("Failed parsing HTTP/2",)
# Calls on a connection to the control port, which takes few of an address at a time.
CALLS = 8
# A slave answers the messages of its neighbour within so long.
ANSWER_SECONDS = 0.3
# Two views of a cluster at rest are so far apart, and it comes to rest within so long.
CALM_SECONDS, SETTLE_SECONDS = 0.3, 20.0
DATA_SERVICES = ("Parameters", "Boundary")
CONTROL = [method for method in METHODS if method.service not in DATA_SERVICES]
DATA = [method for method in METHODS if method.service in DATA_SERVICES]
# What an operator may do by a message that can be read; here it may not be one.
_DEEDS = (methods.SNAPSHOT, methods.ROLLBACK)
_NO_ENDS = Ends()
_H = lay_out([("tensor", "float32", (BATCH_SIZE, WIDTH), "buffer")])


@dataclass
class Tally:
    """What came of a way.

    Attributes:
        frames: frames and calls that were sent.
        seconds: that this took.
        statuses: of the calls.
        wrong: what must not be, each once.
    """

    frames: int = 0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)

    def take(self, answer: Answer) -> None:
        """Count the statuses of a connection."""
        for name, text in answer.statuses.values():
            self.statuses[name] += 1
            if name in DEFECTS and not text.startswith(OF_GRPC):
                self.wrong.setdefault(name, text)


class Ways:
    """Everything that a fuzzer does to a cluster.

    Args:
        cluster: that runs.
        seed: of the mutations.
    """

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self.rng = random.Random(seed)
        self._mutator = Mutator(self.rng)
        self._pushes = PushFuzzer(seed, cluster.lease.incarnation, TABLES)
        self._ports: dict[tuple[str, str], Port] = {}
        self.tallies: dict[str, Tally] = {}
        self._batch = 0
        secured = cluster.identity(READER) is not None
        ways: dict[str, tuple[float, Callable[[Tally], int]]] = {
            "strangers at the data port": (4, lambda t: self._strangers(t, "data", DATA)),
            "strangers at the control port": (3, lambda t: self._strangers(t, "control", CONTROL)),
            "holder of a lease, pushes and pulls": (6, self._holder),
            "holder of a lease, control port": (2, self._control),
            "operator, control port": (1, self._operator),
            "neighbour": (0.6, self._neighbour),
            "pages": (0.5, self._visit),
        }
        if cluster.profile == "basic":
            ways["strangers at the slave's port"] = (4, lambda t: self._strangers(t, "slave", DATA))
        else:
            ways["holder of a lease, streams"] = (2, self._streams)
        if secured:
            ways["bytes in place of TLS"] = (1, self._bare)
        self._ways = ways

    def offer(self) -> int:
        """Take a way by chance; returns the number of frames and calls that were sent."""
        names = list(self._ways)
        (name,) = self.rng.choices(names, [self._ways[each][0] for each in names])
        tally = self.tallies.setdefault(name, Tally())
        stranger = name.startswith(("strangers", "bytes", "pages")) and not self.rng.randrange(20)
        before = self._settled_view() if stranger else None
        began = time.monotonic()
        try:
            sent = self._ways[name][1](tally)
        except StuckError as error:
            tally.wrong.setdefault("stuck", str(error))
            sent = 1
        except ssl.SSLError as error:
            # A port that is full of strangers may turn a further one away in its handshake.
            tally.statuses[f"TLS: {error.reason}"] += 1
            sent = 1
        except ConnectionError:
            tally.statuses["connection lost"] += 1
            sent = 1
        tally.seconds += time.monotonic() - began
        if stranger and self._cluster.outsiders_view() != before:
            tally.wrong.setdefault("state", f"{before} has become {self._cluster.outsiders_view()}")
        tally.frames += sent
        return sent

    def wrong(self) -> list[str]:
        """Return what must not be."""
        return [
            f"{name}: {what}: {text}" for name, t in self.tallies.items() for what, text in t.wrong.items()
        ]

    def _settled_view(self) -> Any:
        """Return what outsiders cannot change, once the pushes of those before them have been applied."""
        deadline, before = time.monotonic() + SETTLE_SECONDS, None
        while (now := self._cluster.outsiders_view()) != before and time.monotonic() < deadline:
            before = now
            time.sleep(CALM_SECONDS)
        return now

    # --- before authentication

    def _strangers(self, tally: Tally, which: str, served: Sequence[Method[Any, Any]]) -> int:
        """Call with wrong credentials, or none, and break the rules of HTTP/2."""
        rng, held = self.rng, self._cluster.lease.incarnation
        shown = rng.choice(
            [NOBODY, Credentials(held), Credentials(held, "0" * 32), Credentials(held + 1, "0" * 32),
             Credentials(token="0" * 32)]
        )  # fmt: skip
        if which == "slave":
            shown = NOBODY
        calls, broken = [], rng.random() < 0.6
        for _ in range(self._count(broken, CALLS if which == "control" else 30)):
            method = rng.choice(served)
            calls.append((method, [self._message(method) for _ in range(rng.randint(1, 2))], shown))
        caller = rng.choice([READER, OTHER])
        return self._say(tally, self._port(which, caller), calls, broken=broken)

    def _bare(self, tally: Tally) -> int:
        """Send what is no TLS, or a mutated greeting, to ports that speak TLS alone."""
        rng, greeting = self.rng, _greeting()
        which = rng.choice(("data", "control", *(["slave"] if self._cluster.profile == "basic" else [])))
        data = self._mutator.garble(greeting) if rng.random() < 0.7 else b"".join(HELLO) + rng.randbytes(100)
        key = (which, "bare")
        if key not in self._ports:
            self._ports[key] = self._cluster.bare(which)
        self._ports[key].say(data)
        return 1

    def _visit(self, tally: Tally) -> int:
        """Send mutated requests of HTTP/1 to the master's pages."""
        path = self.rng.choice(("/", "/status", "/metrics", "/healthz", "/targets", "/history", "/../x"))
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        heard = self._cluster.pages.say(self._mutator.garble(request))
        status = heard[9:12].decode("ascii", "replace") or "closed"
        tally.statuses[f"HTTP {status}"] += 1
        if status.startswith("5") and status != "503":
            tally.wrong.setdefault("pages", heard[:500].decode("latin-1"))
        return 1

    # --- after authentication

    def _holder(self, tally: Tally) -> int:
        """Push mutated frames under a lease, and pull by mutated requests."""
        cluster, rng = self._cluster, self.rng
        if max(cluster.sequences.values()) > 1 << 60:  # A mutation has used them up.
            cluster.renew()
        self._pushes.incarnation = cluster.lease.incarnation
        calls: list[tuple[Method[Any, Any], list[bytes], Credentials]] = []
        broken = rng.random() < 0.2
        for _ in range(self._count(broken)):
            if rng.randrange(4):
                calls.append((methods.PUSH, self._pushes.stream(cluster.sequences), cluster.shown))
            else:
                calls.append((methods.PULL, [self._message(methods.PULL)], cluster.shown))
        return self._say(tally, self._port("data", MINE), calls, broken=broken)

    def _control(self, tally: Tally) -> int:
        """Call methods of a slave with its lease, and of one that joins."""
        cluster, rng, calls = self._cluster, self.rng, []
        broken = rng.random() < 0.2
        for _ in range(self._count(broken, CALLS)):
            method = rng.choice((methods.JOIN, methods.HEARTBEAT, methods.AGREE, methods.REACH))
            shown = cluster.shown if method is methods.HEARTBEAT else cluster.joiner
            calls.append((method, [self._message(method)], shown))
        return self._say(tally, self._port("control", MINE), calls, broken=broken)

    def _operator(self, tally: Tally) -> int:
        """Call the methods of an operator and of readers."""
        rng, calls = self.rng, []
        broken = rng.random() < 0.2
        for _ in range(self._count(broken, CALLS)):
            method = rng.choice(
                (methods.REPORT, methods.SNAPSHOT, methods.SNAPSHOTS, methods.ROLLBACK, methods.STATUS,
                 methods.DESCRIBE)
            )  # fmt: skip
            calls.append((method, [self._message(method)], self._cluster.operator))
        return self._say(tally, self._port("control", OPERATOR), calls, broken=broken)

    def _streams(self, tally: Tally) -> int:
        """Open a stream to the relay, or ask M in the master, and send mutated messages."""
        rng, shown = self.rng, self._cluster.shown
        if rng.random() < 0.5:
            asked = [self._message(methods.SYNTHESIZE) for _ in range(rng.randint(1, 4))]
            return self._say(
                tally, self._port("control", MINE), [(methods.SYNTHESIZE, asked, shown)], broken=False
            )
        sent = [encode(self._hello("")), *(self._message(methods.EXCHANGE) for _ in range(rng.randint(1, 4)))]
        if rng.random() < 0.3:
            sent = self._mutator.change(sent)
        calls = [(methods.EXCHANGE, sent, shown)]
        return self._say(tally, self._port("data", MINE), calls, broken=rng.random() < 0.3)

    def _neighbour(self, tally: Tally) -> int:
        """Meet the slave of layer 2 as its neighbour below, and send mutated activations."""
        cluster, rng = self._cluster, self.rng
        cluster.renew()
        direct = cluster.profile == "basic"
        port = self._port("slave" if direct else "data", MINE)
        shown = NOBODY if direct else cluster.shown
        names = [cluster.identity(name) for name in (MINE, SLAVE)]
        mine, peers = (each.certificate.holder if each else "" for each in names)
        hello = self._hello(cluster.peer().secret if direct else "", Ends(mine, peers))
        messages = [encode(self._activation()) for _ in range(rng.randint(0, 3))]
        messages += [self._message(methods.EXCHANGE) for _ in range(rng.randint(1, 3))]
        first = call(methods.EXCHANGE, [encode(hello)], shown, 1, ends=False)
        rest = call(methods.EXCHANGE, messages, shown, 1)[1:]
        if rng.random() < 0.3:
            rest = self._mutator.connection(rest, _H.nbytes)
        heard = bytearray()
        with port.dial() as stream:
            stream.sendall(b"".join([*HELLO, *first]))
            with suppress(OSError):
                while not understand(bytes(heard)).messages and (some := stream.recv(1 << 16)):
                    heard += some
                tally.statuses["met" if understand(bytes(heard)).messages else "not met"] += 1
                stream.sendall(b"".join(rest))
                stream.settimeout(ANSWER_SECONDS)
                while some := stream.recv(1 << 16):
                    heard += some
                socket.socket.shutdown(stream, socket.SHUT_WR)
        tally.take(understand(bytes(heard)))
        return len(HELLO) + len(first) + len(rest)

    # --- what is sent

    def _port(self, which: str, caller: str) -> Port:
        if (which, caller) not in self._ports:
            self._ports[which, caller] = self._cluster.port(which, caller)
        return self._ports[which, caller]

    def _count(self, broken: bool, most: int = 30) -> int:
        """Return a number of calls: few where a broken frame may end the connection at any of them."""
        return self.rng.randint(1, 6) if broken else self.rng.randint(most // 3, most)

    def _say(
        self,
        tally: Tally,
        port: Port,
        calls: Sequence[tuple[Method[Any, Any], list[bytes], Credentials]],
        *,
        broken: bool,
    ) -> int:
        """Make calls on one connection; a broken one has mutated frames of HTTP/2, too."""
        sent: list[bytes] = []
        for number, (method, messages, shown) in enumerate(calls):
            sent += call(method, messages, shown, 2 * number + 1)
        if broken:
            sent = self._mutator.connection(sent)
            if not self.rng.randrange(10):
                sent = self._mutator.change(list(HELLO)) + sent
        # The data plane reads all in its order, whether the peer has ended or not.
        of_grpc = calls[0][0] in CONTROL
        heard = port.say(b"".join([*HELLO, *sent, PING]), streams=len(calls) if of_grpc else 0)
        answer = understand(heard)
        tally.take(answer)
        for messages in answer.messages.values():
            for each in messages:
                self._note(each)
        return len(sent) + len(HELLO) + 1

    def _note(self, answer: bytes) -> None:
        """Take the sequence of an answered push."""
        with suppress(LayerwiseError):
            reply: PushReply = methods.PUSH.reply.decode(answer)
            known = self._cluster.sequences
            if reply.applied and reply.shard in known:
                known[reply.shard] = max(known[reply.shard], reply.sequence)

    def _message(self, method: Method[Any, Any]) -> bytes:
        """Return a message for a method, mostly mutated, that does no harm by its sender's own right."""
        # Other numbers of a neighbour are no fault: it may train badly, as the holder of any lease.
        head, numbers = self._plain(method), b""
        if method is methods.EXCHANGE:
            head, numbers = head[: -_H.nbytes], head[-_H.nbytes :]
        for _ in range(self.rng.choice((0, 1, 1, 1, 2))):
            head = self._mutator.garble(head)
        encoded = head + numbers
        return encoded if not _ends_a_run(method, encoded) else b"\xff"

    def _plain(self, method: Method[Any, Any]) -> bytes:
        rng, held = self.rng, self._cluster.lease.incarnation
        number = rng.choice(EDGES)
        if method is methods.PUSH:
            self._pushes.incarnation = held
            return rng.choice(self._pushes.stream(self._cluster.sequences))
        if method is methods.EXCHANGE:
            return encode(self._activation())
        made: dict[Method[Any, Any], Callable[[], Any]] = {
            methods.JOIN: lambda: m.JoinRequest(
                rng.choice(("a", "", "b" * 300)), "here", number % 2**32, "cpu", "127.0.0.1:1", "[::]:1",
                m.Holdings({"x": "float32"}, {}, {"python": "3"}), "0" * 32),
            methods.HEARTBEAT: lambda: m.HeartbeatRequest(
                held, number, m.Telemetry(steps=number, next_batch=number, loss=rng.choice((1.0, 1e300)))),
            methods.LEAVE: lambda: m.LeaveRequest(held, "reason"),
            methods.AGREE: lambda: m.AgreeRequest("here", m.Holdings({"x": "y"})),
            methods.REACH: lambda: m.ReachRequest(rng.choice(("127.0.0.1:1", "", "[::1]:1")),
                                                   rng.choice(("token", "0" * 32))),
            methods.REPORT: lambda: m.Evaluation(number, 1.0, 2.0, {"1/weights": number}, {"mse": 1e300}),
            methods.ROLLBACK: lambda: m.RollbackRequest(number),
            methods.PULL: lambda: PullRequest(rng.choice((*TABLES, "9/x")), rng.choice((0, held, number)),
                                              bool(rng.randrange(2)), number % 2**32, rng.choice((0, 1, 7))),
            methods.SYNTHESIZE: lambda: m.SynthesisMessage(
                m.SynthesisKind(rng.randint(1, 3)), "gradient", number, held, 10, table=_H,
                data=bytes(_H.nbytes)),
        }  # fmt: skip
        return method.request.encode(made[method]()) if method in made else b""

    def _hello(self, secret: str, ends: Ends = _NO_ENDS) -> m.BoundaryMessage:
        lease = self._cluster.lease
        fields: dict[str, Any] = {"incarnation": lease.incarnation, "run": lease.run}
        hello = m.BoundaryMessage(m.BoundaryKind.PAIR, 2, **fields)
        proof = prove_hello(hello, secret, ends) if secret else ""
        return m.BoundaryMessage(m.BoundaryKind.PAIR, 2, **fields, proof=proof)

    def _activation(self) -> m.BoundaryMessage:
        self._batch += 1
        numbers = np.full((BATCH_SIZE, WIDTH), self.rng.choice((0.0, 1.0, np.nan)), np.float32)
        return m.BoundaryMessage(
            m.BoundaryKind.ACTIVATION, 2, batch=self.rng.choice((self._batch, *EDGES)),
            incarnation=self._cluster.lease.incarnation, table=_H, data=numbers.tobytes(),
        )  # fmt: skip


def encode(message: m.BoundaryMessage) -> bytes:
    """Encode a boundary message."""
    return b"".join(bytes(part) for part in _parts(encode_boundary(message)))


def _parts(encoded: Any) -> Sequence[bytes]:
    return encoded if isinstance(encoded, tuple) else (encoded,)


def _ends_a_run(method: Method[Any, Any], encoded: bytes) -> bool:
    """Whether a message does by right what ends the fuzzing: the run is done, or rolled back."""
    if method in _DEEDS:
        with suppress(LayerwiseError):
            method.request.decode(encoded)
            return True
        return False
    if method is methods.HEARTBEAT:
        with suppress(LayerwiseError):
            return bool(method.request.decode(encoded).telemetry.done)
    if method is methods.EXCHANGE:
        with suppress(LayerwiseError):
            return decode_boundary(encoded).kind in (m.BoundaryKind.END, m.BoundaryKind.REFUSED)
    return False


def _greeting() -> bytes:
    """Return the first bytes of a client of TLS."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(back, there, server_hostname="localhost").do_handshake()
    return there.read()
