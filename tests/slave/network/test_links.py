"""slave.network.links: pairs of real endpoints over real sockets in both profiles, without any training."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import torch

from common.config.files import load
from common.credentials import Credentials, prove
from common.data.replicas import BatchRoutes
from common.errors import ConfigError, FencedError, LayerwiseError, MalformedError, RefusedError
from common.net import addresses
from common.net.access import Role
from common.net.backoff import Backoff
from common.net.data.incoming import OpenRequests
from common.net.data.pairs import HELLO_SECONDS, prove_hello, read_hello
from common.net.data.places import Bounds
from common.net.data.server import DataServer
from common.net.data.streams import Parts, opened
from common.net.identity import Identity
from common.net.listening import listen_at
from common.shards.pushes import Buffer
from common.signals.forms import SignalForm
from common.signals.values import plain
from common.wire.boundary import Down, End, Ended, Lost, Message, OutputGradient, Ready, Up
from common.wire.messages import BoundaryKind, BoundaryMessage, JoinReply, Peer
from common.wire.methods import EXCHANGE
from common.wire.payloads import boundary_parts, encode_boundary
from common.wire.ranges import MOST
from common.wire.signals import to_wire
from master.relay import Relay
from slave.network import neighbours
from slave.network.dialers import Dialer, MasterDialer, NeighbourDialer
from slave.network.endpoint import STRANGERS_OF_AN_ADDRESS, Endpoint
from slave.network.links import Links
from slave.network.mail import Inbox
from slave.network.neighbours import Neighbours
from slave.network.pair import Boundary
from slave.network.servicer import BoundaryServer
from slave.training.admission import Admission
from tests.authority import identity
from tests.common.net.test_silence import crowd
from tests.faults.proxy import Proxy
from tests.integration.processes import until
from tests.master.served import Client, Stream

# Bound of a wait, reached only by a failing test.
DEADLINE = 20.0
NOWHERE = "127.0.0.1:1"
RUN = "this run"
# Of every pair here.
SECRET = "pair secret"


class Switch:
    """Relay of a master at a free port; the newest incarnation of a seat holds the lease."""

    def __init__(self, hello_seconds: float = HELLO_SECONDS) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._holders: dict[int, JoinReply] = {}
        self.errors: list[LayerwiseError] = []
        counts = [2, 1, 1]
        self.relay = Relay(
            RUN,
            lambda: counts,
            [2, 2, 2],
            None,
            self._holder,
            lambda **_: None,
            hello_seconds,
            broadcasts=True,
        )
        self.server = DataServer(self.errors.append)
        self.server.add_open(EXCHANGE, self.relay.exchange, self.loop)
        self.port = self.server.start("127.0.0.1", 0)

    def _holder(self, incarnation: int) -> JoinReply:
        if incarnation not in self._holders:
            raise FencedError(f"incarnation {incarnation} holds no lease")
        return self._holders[incarnation]

    def grant(self, lease: JoinReply) -> None:
        """Give a seat to an incarnation, and fence the holder."""

        async def replace() -> None:
            for held in list(self._holders.values()):
                if (held.layer, held.replica) == (lease.layer, lease.replica):
                    del self._holders[held.incarnation]
                    self.relay.vacate(held.layer, held.replica)
            self._holders[lease.incarnation] = lease

        asyncio.run_coroutine_threadsafe(replace(), self.loop).result(DEADLINE)

    def close(self) -> None:
        self.server.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


class Slave:
    """Endpoint of a slave and the links of a lease; the inbox keeps every event.

    Without a switch the profile is `basic`; with a switch it is `light`, called by way of `address`.
    """

    def __init__(
        self,
        layer: int,
        incarnation: int,
        replica: int = 0,
        slots: int | None = None,
        listen: str | None = None,
        switch: Switch | None = None,
        address: str = "",
        own: Identity | None = None,
        far: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.lease = JoinReply(True, False, layer, replica, incarnation, 0, RUN)
        self.inbox = Inbox()
        self.asked = 0
        self.neighbours = Neighbours(self._ask)
        self.endpoint = Endpoint(NOWHERE, identity=own, run=RUN)
        senders, receivers = ((0, 1) if layer == 2 else (), (0,) if layer == 1 else ())
        boundary = Boundary(senders, receivers, 2, slots, far=far)
        above = [*((layer + 1, each) for each in receivers), *(seat for seat in far if seat[0] > layer)]
        if switch is None:
            self.endpoint.listen(listen, None, 8, lambda *_: None, insecure=False)
            dialer: Dialer = NeighbourDialer(above, self.neighbours, self.endpoint.tls(Role.SLAVE))
        else:
            switch.grant(self.lease)
            self._address = address or f"127.0.0.1:{switch.port}"
            dialer = MasterDialer(
                [
                    *above,
                    *((layer - 1, each) for each in senders),
                    *(seat for seat in far if seat[0] < layer),
                ],
                self._locate,
                lambda: Backoff(time.monotonic, lambda: 0.5, patience=DEADLINE),
                Credentials(incarnation),
            )
        server = self.endpoint.server
        self._links = Links(self.lease, boundary, dialer, self.inbox, self.neighbours, server)
        self.endpoint.call(self._begin())
        # The first slaves of layer 1; `basic` alone asks the master for neighbours.
        self._named: dict[tuple[int, int], Peer] = {}
        if switch is None and layer == 2:
            self.learn_more(Peer(1, 0, 1, NOWHERE, SECRET), Peer(1, 1, 2, NOWHERE, SECRET))

    @property
    def server(self) -> BoundaryServer:
        """Server of the slave, in `basic`."""
        assert self.endpoint.server is not None
        return self.endpoint.server

    async def _locate(self) -> tuple[str, int]:
        return addresses.split_address(self._address)

    def _ask(self) -> None:
        self.asked += 1

    async def _begin(self) -> None:
        self._running = asyncio.ensure_future(self._run())
        await asyncio.sleep(0)

    async def _run(self) -> None:
        try:
            await self._links.run()
        except LayerwiseError as error:
            self.inbox.put(error)

    @property
    def peer(self) -> Peer:
        """Peer entry with which the master would name the slave."""
        lease = self.lease
        return Peer(lease.layer, lease.replica, lease.incarnation, self.endpoint.address, SECRET)

    def learn_more(self, *peers: Peer) -> None:
        """Learn a newer list of the master, with further peers."""
        named = self._named | {(peer.layer, peer.replica): peer for peer in peers}
        self.learn_neighbours(self.neighbours.version + 1, *named.values())

    def learn_neighbours(self, version: int, *peers: Peer) -> None:
        """Learn the neighbours from the master."""
        self._named = {(peer.layer, peer.replica): peer for peer in peers}

        async def learn() -> None:
            self.neighbours.learn(version, list(peers))

        self.endpoint.call(learn())

    def send(self, kind: type[Message], batch: int, *, replica: int = 0, incarnation: int = 0) -> None:
        """Hand over a message for the layer above or below."""
        assert kind.direction is not None
        tensors: dict[str, Any] = {name: torch.full((2, 3), float(batch)) for name in list(kind.signals)[:1]}
        message = kind(
            batch=batch,
            **tensors,
            layer=self.lease.layer + kind.direction,
            replica=replica,
            sender=self.lease.replica,
            incarnation=incarnation or self.lease.incarnation,
        )
        self.endpoint.post(self._links.send, message, boundary_parts(to_wire(message)))

    def burst(self, count: int) -> None:
        """Send activations, all before the first write."""

        async def send() -> None:
            for batch in range(count):
                self._links.send(activation(batch=batch), boundary_parts(to_wire(activation(batch=batch))))

        self.endpoint.call(send())

    def next_message(self) -> Message:
        """Return the next message."""
        message = self.inbox.get(timeout=DEADLINE)
        assert isinstance(message, Message), message
        return message

    def expect_ready(self) -> None:
        """Expect `Ready`: a pair with a neighbour above has opened."""
        ready = self.next_message()
        assert isinstance(ready, Ready)
        self.endpoint.post(self._links.resume, ready)

    async def _end(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    def end_lease(self) -> None:
        """End the lease but not the process."""
        self.endpoint.call(self._end())

    def close(self) -> None:
        """End the process."""
        self.end_lease()
        self.endpoint.close()


Make = Callable[..., Slave]


@pytest.fixture
def make() -> Iterator[Make]:
    """Build slaves, closed at the end of the test."""
    made: list[Slave] = []

    def build(*arguments: Any, **named: Any) -> Slave:
        made.append(Slave(*arguments, **named))
        return made[-1]

    yield build
    for slave in made:
        if slave.endpoint._thread.is_alive():
            slave.close()


@pytest.fixture(params=["basic", "light"])
def switch(request: pytest.FixtureRequest) -> Iterator[Switch | None]:
    """Yield the master's relay in `light`, None in `basic`."""
    if request.param == "basic":
        yield None
        return
    switching = Switch()
    yield switching
    switching.close()


@pytest.fixture
def either(make: Make, switch: Switch | None) -> Make:
    """Build slaves of either profile."""
    return functools.partial(make, switch=switch)


def meet(lower: Slave, upper: Slave, version: int = 1) -> None:
    """Have the master name each slave to the other, and wait for the pair to open."""
    if upper.endpoint.server is not None:
        upper.learn_more(lower.peer)
        lower.learn_neighbours(version, upper.peer)
    lower.expect_ready()


@pytest.fixture
def pair(make: Make) -> tuple[Slave, Slave]:
    """Connect layers 1 and 2 in `basic`."""
    lower, upper = make(1, 1), make(2, 2)
    meet(lower, upper)
    return lower, upper


@pytest.fixture
def met(either: Make) -> tuple[Slave, Slave]:
    """Connect layers 1 and 2 in either profile."""
    lower, upper = either(1, 1), either(2, 2)
    meet(lower, upper)
    return lower, upper


def exchange(lower: Slave, upper: Slave, batch: int) -> None:
    """Exchange a message in either direction."""
    lower.send(Up, batch)
    came = upper.next_message()
    assert isinstance(came, Up)
    assert (came.batch, came.incarnation) == (batch, lower.lease.incarnation)
    assert torch.equal(plain(came.h), torch.full((2, 3), float(batch)))
    upper.send(Down, batch, incarnation=lower.lease.incarnation)
    back = lower.next_message()
    assert isinstance(back, Down)
    assert (back.batch, back.sender) == (batch, upper.lease.replica)


def test_messages_go_both_ways_in_order(met: tuple[Slave, Slave]) -> None:
    lower, upper = met
    exchange(lower, upper, 0)
    for batch in range(1, 8):
        lower.send(Up, batch)
    lower.send(End, 8)
    assert [upper.next_message().batch for _ in range(8)] == list(range(1, 9))
    for kind in (Lost, Ended):
        upper.send(kind, 8)
        assert type(lower.next_message()) is kind


def test_a_far_layer_hears_layer_k_and_learns_of_no_neighbour_by_it(either: Make) -> None:
    """The message comes by a stream of its own, past layer 2, where there is no slave."""
    lower, top = either(1, 1, far=((3, 0),)), either(3, 3, far=((1, 0), (1, 1)))
    if top.endpoint.server is not None:
        top.learn_more(lower.peer)
        lower.learn_more(top.peer)
    error = OutputGradient(5, torch.full((2, 3), 4.0), layer=1, incarnation=3)
    encoded = boundary_parts(to_wire(error))

    def hears() -> bool:
        top.endpoint.post(top._links.send, error, encoded)
        return not lower.inbox.empty()

    until(hears, DEADLINE)
    came = lower.next_message()
    assert isinstance(came, OutputGradient)
    assert (came.batch, came.sender, came.incarnation) == (5, 0, 3)
    assert torch.equal(plain(came.error), torch.full((2, 3), 4.0))


def test_a_slave_that_is_no_far_seat_is_refused_by_layer_k(make: Make) -> None:
    top, lower = make(3, 3, far=((1, 1),)), make(1, 1, far=((3, 0),))
    top.learn_more(lower.peer)
    lower.learn_more(top.peer)
    until(lambda: top.server.refused["RefusedError"], DEADLINE)
    assert lower.inbox.empty()


def test_a_neighbour_that_is_not_known_yet_is_asked_for_and_met_when_it_is(make: Make) -> None:
    lower = make(1, 1)
    until(lambda: lower.asked and lower.neighbours.wanted, DEADLINE)
    upper = make(2, 2)
    lower.send(Up, 0)  # dropped: the trainer sends again
    lower.learn_neighbours(1, upper.peer)
    lower.expect_ready()
    assert not lower.neighbours.wanted
    exchange(lower, upper, 1)


def test_what_is_sent_before_the_trainer_has_heard_of_the_pair_does_not_overtake_what_it_then_sends(
    either: Make,
) -> None:
    lower, upper = either(1, 1), either(2, 2)
    if upper.endpoint.server is not None:
        upper.learn_more(lower.peer)
        lower.learn_neighbours(1, upper.peer)
    until(lambda: not lower.inbox.empty(), DEADLINE)
    lower.send(Up, 1)  # the trainer was in the midst of batch 1
    lower.expect_ready()
    for batch in range(2):
        exchange(lower, upper, batch)


def test_a_neighbour_that_is_replaced_is_followed(met: tuple[Slave, Slave], either: Make) -> None:
    lower, upper = met
    successor = either(2, 3)
    meet(lower, successor, 2)
    exchange(lower, successor, 4)
    assert not [event for event in drained(upper.inbox) if isinstance(event, Message)]


def test_a_lower_neighbour_that_is_replaced_is_followed_and_hears_of_the_upper_one(
    met: tuple[Slave, Slave], either: Make
) -> None:
    lower, upper = met
    exchange(lower, upper, 0)
    successor = either(1, 3)
    meet(successor, upper)
    exchange(successor, upper, 1)


def drained(inbox: Inbox) -> list[object]:
    found = []
    while not inbox.empty():
        found.append(inbox.get(block=False))
    return found


def test_a_neighbour_that_was_gone_for_a_while_is_met_again_at_its_address(
    pair: tuple[Slave, Slave], make: Make
) -> None:
    lower, upper = pair
    address = upper.endpoint.address
    asked = lower.asked
    upper.close()
    until(lambda: lower.neighbours.wanted, DEADLINE)
    assert lower.asked == asked + 1
    for batch in range(1000):
        lower.send(Up, batch)
    again = make(2, 2, listen=address)
    lower.expect_ready()
    exchange(lower, again, 1000)


def test_a_slave_whose_lease_has_ended_sends_its_neighbour_away_until_it_has_another(
    pair: tuple[Slave, Slave],
) -> None:
    lower, upper = pair
    upper.end_lease()
    until(lambda: lower.neighbours.wanted, DEADLINE)
    until(lambda: upper.server.refused["UnreachableError"], DEADLINE)
    upper.endpoint.call(upper._begin())
    lower.expect_ready()
    exchange(lower, upper, 1)


@pytest.mark.parametrize("cut", ["lower", "upper"])
def test_a_cut_connection_is_made_anew(either: Make, switch: Switch | None, cut: str) -> None:
    upper = None if switch else either(2, 2)

    def target() -> tuple[str, int]:
        return ("127.0.0.1", switch.port) if switch else addresses.split_address(upper_address)

    upper_address = upper.endpoint.address if upper else ""
    with Proxy(target) as proxy:
        if switch:
            lower = either(1, 1, address=proxy.address if cut == "lower" else "")
            upper = either(2, 2, address=proxy.address if cut == "upper" else "")
            lower.expect_ready()
        else:
            lower = either(1, 1)
            lower.learn_neighbours(1, Peer(2, 0, 2, proxy.address, SECRET))
            lower.expect_ready()
        assert upper is not None
        exchange(lower, upper, 0)
        for batch in range(1, 4):
            proxy.restore()
            lower.expect_ready()
            exchange(lower, upper, batch)


def test_two_replicas_below_have_a_stream_each(either: Make) -> None:
    lowers, upper = [either(1, 1), either(1, 2, replica=1)], either(2, 3)
    for lower in lowers:
        meet(lower, upper)
    for number, lower in enumerate(lowers):
        lower.send(Up, number)
        assert upper.next_message().sender == number
        upper.send(Down, number, replica=number)
        assert lower.next_message().batch == number


def test_one_neighbours_broken_stream_leaves_the_others_alone(either: Make) -> None:
    lowers, upper = [either(1, 1), either(1, 2, replica=1)], either(2, 3)
    for lower in lowers:
        meet(lower, upper)
    lowers[0].close()
    lowers[1].send(Up, 5)
    assert upper.next_message().batch == 5
    upper.send(Down, 5, replica=1)
    assert lowers[1].next_message().batch == 5
    assert lowers[1].inbox.empty()


# --- admission


def test_an_older_incarnation_is_fenced_once_the_master_names_its_successor(
    pair: tuple[Slave, Slave], make: Make
) -> None:
    lower, upper = pair
    successor = make(1, 5)
    successor.learn_neighbours(1, upper.peer)
    upper.learn_more(successor.peer)
    successor.expect_ready()
    # The older slave finds the stream closed, opens a new stream, and is refused.
    until(lambda: upper.server.refused["FencedError"] >= 2, DEADLINE)
    exchange(successor, upper, 3)
    assert lower.inbox.empty()
    assert lower.neighbours.wanted


def test_an_older_incarnation_is_fenced_by_what_the_master_says(pair: tuple[Slave, Slave]) -> None:
    lower, upper = pair
    upper.learn_neighbours(9, Peer(1, 0, 9, NOWHERE, SECRET))
    until(lambda: upper.server.refused["FencedError"] >= 2, DEADLINE)
    assert lower.inbox.empty()


def test_an_incarnation_of_its_own_making_is_refused_and_the_honest_neighbour_goes_on(
    make: Make,
) -> None:
    """The liar once fenced every slave of the seat, for good."""
    lower, upper = make(1, 1), make(2, 2)
    meet(lower, upper)
    with Stranger(upper) as stream:
        stream.write(encode_boundary(hello(incarnation=MOST)))
        until(lambda: upper.neighbours.wanted, DEADLINE)
        # Two answers without news: the first may have been under way.
        for _ in range(2):
            upper.learn_neighbours(upper.neighbours.version, *upper._named.values())
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
    assert caught.value.code().name == "FAILED_PRECONDITION"
    assert "has not granted incarnation 9007199254740991 of layer 1 replica 0" in caught.value.details()
    assert not upper.neighbours.wanted
    exchange(lower, upper, 3)
    successor = make(1, 5)
    meet(successor, upper)
    exchange(successor, upper, 4)


@pytest.mark.parametrize("proof", ["", "0" * 64, prove("another secret", RUN, 2, 0, 0, 1)])
def test_a_caller_without_the_secret_of_the_pair_is_refused(make: Make, proof: str) -> None:
    lower, upper = make(1, 1), make(2, 2)
    meet(lower, upper)
    with Stranger(upper) as stream:
        stream.write(encode_boundary(replace(hello(), proof=proof)))
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
    assert caught.value.code().name == "UNAUTHENTICATED"
    exchange(lower, upper, 3)


def test_a_process_at_the_address_of_a_neighbour_does_not_pass_for_the_neighbour(make: Make) -> None:
    """The impostor takes every proof that it is given, and gives the caller's own back."""
    lower = make(1, 1)
    heard: list[BoundaryMessage] = []

    async def pretend(requests: OpenRequests) -> AsyncGenerator[Parts, None]:
        heard.append(await read_hello(requests))
        greeting = BoundaryMessage(BoundaryKind.PAIR, 1, 0, incarnation=2, sender=0, run=RUN)
        yield (encode_boundary(replace(greeting, proof=heard[-1].proof)),)
        yield (encode_boundary(to_wire(Down(0, torch.ones(2, 3), layer=1, incarnation=1))),)

    impostor = DataServer()
    impostor.add_open(EXCHANGE, pretend, lower.endpoint.loop)
    address = f"127.0.0.1:{impostor.start('127.0.0.1', 0)}"
    try:
        lower.learn_neighbours(1, Peer(2, 0, 2, address, SECRET))
        until(lambda: len(heard) >= 2, DEADLINE)
    finally:
        impostor.stop()
    assert lower.inbox.empty()
    upper = make(2, 2)
    upper.learn_more(lower.peer)
    lower.learn_neighbours(2, upper.peer)
    lower.expect_ready()
    exchange(lower, upper, 1)


def test_a_slave_between_two_neighbours_does_not_pass_for_either(make: Make, tmp_path: Path) -> None:
    """The impostor has a certificate of the run, and passes the hellos and the proofs on."""
    one, two, three = (identity(tmp_path / name, Role.SLAVE, name=name) for name in ("one", "two", "three"))
    lower, upper = make(1, 1, own=one), make(2, 2, own=two)
    host, port = addresses.split_address(upper.endpoint.address)
    passed: list[Buffer] = []

    async def pass_on(requests: OpenRequests) -> AsyncGenerator[Parts, None]:
        async with opened(host, port, EXCHANGE, tls=three.call(Role.SLAVE, RUN)) as stream:
            passed.append(await anext(requests))
            await stream.write(passed[-1])
            while (answer := await stream.read()) is not None:
                yield (answer,)

    impostor = DataServer(tls=three.serve())
    impostor.add_open(EXCHANGE, pass_on, lower.endpoint.loop)
    try:
        between = replace(upper.peer, address=f"127.0.0.1:{impostor.start('127.0.0.1', 0)}")
        upper.learn_more(lower.peer)
        lower.learn_neighbours(1, between)
        until(lambda: upper.server.refused["UnprovenError"] >= 2, DEADLINE)
    finally:
        impostor.stop()
    assert passed
    assert lower.inbox.empty()
    lower.learn_neighbours(2, upper.peer)
    lower.expect_ready()
    exchange(lower, upper, 1)


def test_neighbours_that_know_other_secrets_do_not_meet(make: Make) -> None:
    lower, upper = make(1, 1), make(2, 2)
    upper.learn_more(replace(lower.peer, secret="of an earlier incarnation"))
    lower.learn_neighbours(1, upper.peer)
    until(lambda: upper.server.refused["UnprovenError"] >= 2, DEADLINE)
    assert lower.inbox.empty()
    upper.learn_more(lower.peer)
    lower.expect_ready()


def test_a_claim_waits_for_the_heartbeat_that_confirms_it(make: Make) -> None:
    upper = make(2, 2)
    successor = make(1, 3)
    successor.learn_neighbours(1, upper.peer)
    until(lambda: upper.neighbours.wanted, DEADLINE)
    assert upper.asked == 1
    assert not upper.server.refused
    upper.learn_more(successor.peer)
    successor.expect_ready()
    exchange(successor, upper, 1)


def test_a_claim_that_no_heartbeat_confirms_is_refused_in_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "CONFIRM_SECONDS", 0.1)
    upper = make(2, 2)
    with Stranger(upper) as stream:
        stream.write(encode_boundary(hello(incarnation=9)))
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
    assert caught.value.code().name == "FAILED_PRECONDITION"


def hello(**changed: Any) -> BoundaryMessage:
    """Build the hello of layer 1's slave, incarnation 1, to layer 2's."""
    fields = {"layer": 2, "replica": 0, "incarnation": 1, "sender": 0, "run": RUN, **changed}
    greeting = BoundaryMessage(fields.pop("kind", BoundaryKind.PAIR), **fields)
    return replace(greeting, proof=prove_hello(greeting, SECRET))


class Stranger:
    """Stream to a slave, opened by hand."""

    def __init__(self, slave: Slave) -> None:
        self._client = Client(slave.endpoint.address)
        self.stream: Stream = self._client.exchange()

    def __enter__(self) -> Stream:
        return self.stream.__enter__()

    def __exit__(self, *what: object) -> None:
        self.stream.__exit__(*what)
        self._client.close()


@pytest.mark.parametrize(
    ("greeting", "status", "why"),
    [
        (hello(run="another"), "FAILED_PRECONDITION", "another run"),
        (hello(layer=3), "FAILED_PRECONDITION", "layer 3 replica 0 is not here"),
        (hello(replica=1), "FAILED_PRECONDITION", "layer 2 replica 1 is not here"),
        (hello(sender=7), "FAILED_PRECONDITION", "replica 7 of layer 1 shares no batch"),
        (hello(kind=BoundaryKind.END), "INVALID_ARGUMENT", "begins with PAIR"),
        (hello(kind=BoundaryKind.ACTIVATION), "INVALID_ARGUMENT", "begins with PAIR"),
    ],
)
def test_a_wrong_hello_is_refused(make: Make, greeting: BoundaryMessage, status: str, why: str) -> None:
    upper = make(2, 2)
    with Stranger(upper) as stream:
        stream.write(encode_boundary(greeting))
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
    assert caught.value.code().name == status
    assert why in caught.value.details()
    assert upper.server.refused.total() == 1
    assert upper.inbox.empty()


@pytest.mark.parametrize("encoded", [b"", b"\xff" * 40, b"\x08\x63"], ids=["nothing", "noise", "no kind"])
def test_what_is_no_hello_is_refused(make: Make, encoded: bytes) -> None:
    upper = make(2, 2)
    with Stranger(upper) as stream:
        stream.write(encoded)
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
    assert caught.value.code().name == "INVALID_ARGUMENT"


def activation(**changed: Any) -> Up:
    address = {"layer": 2, "incarnation": 1, **changed}
    return Up(address.pop("batch", 0), torch.zeros(2, 3), **address)


ENCODED = to_wire(activation())


@pytest.mark.parametrize(
    "wrong",
    [
        replace(ENCODED, layer=3),
        replace(ENCODED, replica=1),
        replace(ENCODED, sender=1),
        replace(ENCODED, incarnation=2),
        replace(ENCODED, kind=BoundaryKind.GRADIENT),
        BoundaryMessage(BoundaryKind.PEER, 2, incarnation=1),
        BoundaryMessage(BoundaryKind.ACTIVATION, 2, incarnation=1),
    ],
    ids=["layer", "replica", "sender", "incarnation", "gradient", "peer", "no tensor"],
)
def test_a_message_that_does_not_belong_on_its_stream_ends_it(make: Make, wrong: BoundaryMessage) -> None:
    upper = make(2, 2)
    with Stranger(upper) as stream:
        stream.write(encode_boundary(hello()))
        assert stream.read().kind == BoundaryKind.PAIR
        stream.write(encode_boundary(wrong))
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert upper.inbox.empty()


def test_a_slave_that_sends_what_its_neighbour_cannot_use_is_told_so_and_ends(
    pair: tuple[Slave, Slave],
) -> None:
    lower, upper = pair
    lower.send(Up, 0, incarnation=77)
    assert "came from incarnation 77" in str(lower.inbox.get(timeout=DEADLINE))
    assert upper.inbox.empty()


# --- messages that the layer cannot use


def admit_finite(*slaves: Slave) -> list[int]:
    """Have slaves refuse tensors of another shape, and NaN; collects the senders' layers."""
    refused: list[int] = []
    for slave in slaves:
        slave._links.admit = ADMISSION.check
        slave._links._on_refusal = refused.append
    return refused


RUN_OF_TWO = load(None, ["network.cuts=[1]", "run.batches=2000", "run.batch_size=2"])
FORM = SignalForm.plain((3,))
ADMISSION = Admission(RUN_OF_TWO, 1, BatchRoutes(below=2), FORM, FORM)
BAD = {
    "shape": torch.zeros(2, 4),
    "batch": torch.zeros(3, 3),
    "nan": torch.tensor([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]]),
    "inf": torch.full((2, 3), float("inf")),
}


@pytest.mark.parametrize("tensor", BAD.values(), ids=BAD)
def test_a_bad_activation_ends_its_senders_stream_and_never_the_receiver(
    make: Make, tensor: torch.Tensor
) -> None:
    """The sender is told the tensor; a stream soon after is refused."""
    upper = make(2, 2)
    refused = admit_finite(upper)
    for code, why in (
        ("INVALID_ARGUMENT", 'tensor "tensor" of ACTIVATION of batch 4'),
        ("UNAVAILABLE", "heard again"),
    ):
        with Stranger(upper) as stream:
            stream.write(encode_boundary(hello()))
            if code == "INVALID_ARGUMENT":
                assert stream.read().kind == BoundaryKind.PAIR
                stream.write(encode_boundary(to_wire(Up(4, tensor, layer=2, incarnation=1))))
            with pytest.raises(grpc.RpcError) as caught:
                stream.read()
        assert caught.value.code().name == code
        assert why in caught.value.details()
    assert refused == [1]
    assert upper.inbox.empty()
    other = make(1, 2, replica=1)
    meet(other, upper)
    other.send(Up, 1)
    assert upper.next_message().batch == 1


def told(slave: Slave) -> MalformedError:
    """Return the status with which a slave whose message was refused ends its lease."""
    while not isinstance(event := slave.inbox.get(timeout=DEADLINE), MalformedError):
        assert isinstance(event, Message), event
    return event


def send_tensor(slave: Slave, message: Message) -> None:
    slave.endpoint.post(slave._links.send, message, boundary_parts(to_wire(message)))


def test_a_bad_gradient_never_reaches_the_layer_below_which_meets_a_successor(
    met: tuple[Slave, Slave], either: Make
) -> None:
    lower, upper = met
    refused = admit_finite(lower)
    exchange(lower, upper, 1)
    send_tensor(upper, Down(2, BAD["nan"], layer=1, incarnation=1))
    until(lambda: refused == [2], DEADLINE)
    assert 'tensor "tensor" of GRADIENT of batch 2' in str(told(upper))
    successor = either(2, 3)
    meet(lower, successor, 2)
    exchange(lower, successor, 3)
    assert not [
        each for each in drained(lower.inbox) if isinstance(each, Message) and not isinstance(each, Ready)
    ]


def test_in_light_a_bad_activation_never_reaches_the_layer_above(make: Make) -> None:
    switching = Switch()
    try:
        lower, upper = make(1, 1, switch=switching), make(2, 2, switch=switching)
        meet(lower, upper)
        refused = admit_finite(upper)
        send_tensor(lower, Up(0, BAD["shape"], layer=2, incarnation=1))
        until(lambda: refused == [1], DEADLINE)
        assert 'tensor "tensor" of ACTIVATION of batch 0' in str(told(lower))
        successor = make(1, 3, switch=switching)
        meet(successor, upper)
        exchange(successor, upper, 2)
    finally:
        switching.close()


def test_a_neighbour_that_opens_stream_after_stream_queues_no_more_than_on_one(make: Make) -> None:
    """Every stream once brought a fresh allowance."""
    upper, capacity = make(2, 2), Boundary(window=2).capacity
    for start in range(0, 5 * capacity, capacity):
        with Stranger(upper) as stream:
            stream.write(encode_boundary(hello()))
            stream.write(
                *(encode_boundary(to_wire(activation(batch=start + b))) for b in range(2 * capacity))
            )
            stream.read()
            with pytest.raises(grpc.RpcError) as caught:
                stream.read()
        assert caught.value.code().name == "UNAVAILABLE"
    assert len(upper.inbox) == capacity


# --- bounds


def test_a_neighbour_that_is_sent_too_much_at_once_has_its_stream_opened_anew(
    met: tuple[Slave, Slave],
) -> None:
    lower, upper = met
    capacity = Boundary(window=2).capacity
    lower.burst(4 * capacity)
    # Too many messages wait: a new stream is opened, and `Ready` has the trainer send again.
    lower.expect_ready()
    while not upper.inbox.empty():
        upper.next_message()
    exchange(lower, upper, 1000)


def test_a_slave_that_does_not_keep_up_holds_no_more_than_fits(make: Make) -> None:
    upper, capacity = make(2, 2), Boundary(window=2).capacity
    with Stranger(upper) as stream:
        stream.write(encode_boundary(hello()))
        stream.write(*(encode_boundary(to_wire(activation(batch=batch))) for batch in range(10 * capacity)))
        stream.read()
        with pytest.raises(grpc.RpcError) as caught:
            stream.read()
    assert caught.value.code().name == "UNAVAILABLE"
    assert [upper.next_message().batch for _ in range(capacity)] == list(range(capacity))
    assert upper.inbox.empty()


def test_with_slots_a_slow_neighbour_finds_the_newest_and_every_word(make: Make) -> None:
    lower, upper = make(1, 1, slots=4), make(2, 2, slots=4)
    lower.learn_neighbours(1, upper.peer)
    lower.expect_ready()
    for batch in range(500):
        lower.send(Up, batch)
    lower.send(End, 500)
    threading.Event().wait(0.5)
    found: list[Message] = []
    while not found or not isinstance(found[-1], End):
        found.append(upper.next_message())
    batches = [message.batch for message in found]
    assert batches == sorted(batches)
    assert {496, 497, 498, 499} <= {*batches}
    assert len(found) < 500


def test_streams_that_never_say_whose_they_are_take_no_more_than_their_number_and_time() -> None:
    endpoint = Endpoint(NOWHERE)
    server = BoundaryServer(Bounds(2, 2, 2, 2), endpoint.loop, hello_seconds=2.0)
    client = Client(f"127.0.0.1:{server.start(listen_at('--listen', '127.0.0.1', 0))}")
    try:
        with client.exchange() as one:
            until(lambda: len(server._server._threads) == 1, DEADLINE)
            with client.exchange() as two:
                until(lambda: len(server._server._threads) == 2, DEADLINE)
                with client.exchange() as third:
                    # The newest takes the place of the oldest.
                    with pytest.raises(grpc.RpcError) as full:
                        one.read()
                    assert full.value.code().name == "UNAVAILABLE"
                    for silent in (two, third):
                        with pytest.raises(grpc.RpcError) as late:
                            silent.read()
                        assert late.value.code().name == "DEADLINE_EXCEEDED"
    finally:
        client.close()
        server.stop()
        endpoint.close()


def test_a_neighbour_gets_through_while_a_stranger_holds_all_that_it_may(make: Make) -> None:
    lower, upper = make(1, 1), make(2, 2)
    port = addresses.split_address(upper.endpoint.address)[1]
    with ExitStack() as stack:

        def hold() -> None:
            for each in crowd(port, ["127.0.0.1"] * 2 * STRANGERS_OF_AN_ADDRESS, EXCHANGE.path):
                stack.enter_context(each)

        hold()
        meet(lower, upper)
        exchange(lower, upper, 0)
        hold()
        exchange(lower, upper, 1)
        # Strangers have given their places to newer ones.
        assert upper.server.refused.keys() <= {"UnreachableError"}


def test_in_light_a_fenced_slave_learns_it_from_the_master(make: Make) -> None:
    switching = Switch()
    try:
        lower, upper = make(1, 1, switch=switching), make(2, 2, switch=switching)
        meet(lower, upper)
        make(1, 3, switch=switching)
        assert isinstance(lower.inbox.get(timeout=DEADLINE), FencedError)
    finally:
        switching.close()


def test_in_light_a_call_without_a_hello_ends_in_time() -> None:
    switching = Switch(hello_seconds=0.2)
    client = Client(f"127.0.0.1:{switching.port}")
    try:
        with client.exchange() as silent, pytest.raises(grpc.RpcError) as late:
            silent.read()
        assert late.value.code().name == "DEADLINE_EXCEEDED"
    finally:
        client.close()
        switching.close()


def test_in_light_a_malformed_message_ends_its_sender_and_reaches_nobody(make: Make) -> None:
    switching = Switch()
    try:
        lower, upper = make(1, 1, switch=switching), make(2, 2, switch=switching)
        meet(lower, upper)
        lower.send(Up, 0, incarnation=77)
        assert "came from incarnation 77" in str(lower.inbox.get(timeout=DEADLINE))
        assert upper.inbox.empty()
    finally:
        switching.close()


def test_closing_leaves_no_thread_and_no_socket(make: Make) -> None:
    def ports() -> set[Any]:
        return {c.laddr for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"}

    threads, before = threading.active_count(), ports()
    lower, upper = make(1, 1), make(2, 2)
    lower.learn_neighbours(1, upper.peer)
    lower.expect_ready()
    exchange(lower, upper, 0)
    assert len(ports()) == len(before) + 2
    lower.close()
    upper.close()
    until(lambda: threading.active_count() <= threads and ports() == before, DEADLINE)


# --- where a slave listens


def listening(listen: str | None, advertise: str | None = None, *, insecure: bool = False) -> str:
    endpoint = Endpoint(NOWHERE)
    try:
        endpoint.listen(listen, advertise, 2, lambda *_: None, insecure=insecure)
        return endpoint.address
    finally:
        endpoint.close()


def test_a_slave_listens_on_loopback_where_the_master_is_and_says_so() -> None:
    host, port = addresses.split_address(listening(None))
    assert host == "127.0.0.1"
    assert port > 0


def test_what_is_advertised_is_told_and_port_0_is_the_one_that_was_taken() -> None:
    assert listening(None, "far.example:4711") == "far.example:4711"
    host, port = addresses.split_address(listening("127.0.0.2:0", "localhost:0"))
    assert host == "localhost"
    assert port > 0


def test_every_interface_is_advertised_as_the_one_that_reaches_the_master() -> None:
    assert addresses.split_address(listening("0.0.0.0:0", insecure=True))[0] == "127.0.0.1"
    with pytest.raises(ConfigError, match=r"--advertise 0\.0\.0\.0:0: nobody can reach it"):
        listening(None, "0.0.0.0:0")


def test_listening_beyond_this_machine_has_to_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="say --insecure"):
        listening("0.0.0.0:0")


def test_an_address_is_tried_before_neighbours_hear_of_it_and_given_up_where_nobody_gets_through() -> None:
    def check(address: str, token: str) -> None:
        with socket.create_connection(addresses.split_address(address), DEADLINE) as caller:
            assert caller.recv(100) == token.encode()
        raise RefusedError(f"{address}: nobody gets through")

    endpoint = Endpoint(NOWHERE)
    try:
        with pytest.raises(RefusedError, match="nobody gets through") as caught:
            endpoint.listen(None, None, 2, check, insecure=False)
        assert endpoint.server is None
        tried = str(caught.value).rpartition(": ")[0]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(addresses.split_address(tried), DEADLINE)
    finally:
        endpoint.close()


def test_a_taken_port_is_refused(make: Make) -> None:
    taken = make(2, 2).endpoint.address
    with pytest.raises(RefusedError, match="is taken"):
        listening(taken)


def test_a_master_without_an_interface_to_it_is_a_wrong_address() -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid:1: "):
        addresses.interface_to("no.such.host.invalid:1")
