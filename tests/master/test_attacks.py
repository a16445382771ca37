"""Attacks by a client that knows everything but the secrets: each is refused, and changes nothing.

With certificates the client holds a slave's, for the same run.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.credentials import NOBODY, Credentials
from common.errors import FencedError, ForbiddenError, LayerwiseError, UnprovenError
from common.net import control
from common.net.access import Role
from common.net.addresses import split_address
from common.net.data.client import DataClient, pull
from common.net.data.streams import opened
from common.net.http2.tls import Tls
from common.net.identity import Identity, tls_for
from common.shards.pushes import Operation, PullRequest
from common.wire import methods
from common.wire.messages import (
    BoundaryKind,
    BoundaryMessage,
    Evaluation,
    HeartbeatRequest,
    JoinRequest,
    LeaveRequest,
    RollbackRequest,
    SnapshotRequest,
    StatusRequest,
    Telemetry,
)
from common.wire.methods import EXCHANGE, PUSH
from common.wire.payloads import encode_boundary, frame_parts, frames
from master.web.scrape import scrape
from tests.authority import identity
from tests.master.pushes import creation, update
from tests.master.served import DEADLINE, Served, key_of, served

SLAVES = ("a", "b", "c")


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    """Master with a slave on each of three seats, and a shard of two numbers."""
    with served(tmp_path) as running:
        take_seats(running)
        yield running


def take_seats(running: Served) -> None:
    held = [running.join(name).incarnation for name in SLAVES]
    running.master.parameters.push(*creation((1.0, 2.0), incarnation=held[0]))


@dataclass(frozen=True)
class Attacked:
    """Master as of `master`, and the intruder.

    Attributes:
        master: calls by its channel are the intruder's.
        intruder: certificate of the intruder; None: everybody speaks in the clear.
    """

    master: Served
    intruder: Identity | None

    @property
    def tls(self) -> Tls | None:
        return tls_for(self.intruder, Role.MASTER)


@pytest.fixture(params=["in the clear", "with a slave's certificate"])
def attacked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Attacked]:
    if request.param == "in the clear":
        with served(tmp_path) as running:
            take_seats(running)
            yield Attacked(running, None)
        return
    own, honest = identity(tmp_path / "master", Role.MASTER), identity(tmp_path / "honest", Role.SLAVE)
    intruder = identity(tmp_path / "intruder", Role.SLAVE, name="intruder", run="layerwise")
    with served(tmp_path / "state", identity=own, caller=honest) as running:
        take_seats(running)
        own_channel = running.channel
        with control.channel(running.address, intruder) as running.channel:
            yield Attacked(running, intruder)
        running.channel = own_channel


def state(master: Served) -> Any:
    """Everything that an attack could change: seats, versions, numbers, and what is kept of them."""
    master.do(master.master.ledger.save())
    kept = json.loads((master.state.path / "roster.json").read_text())
    status = master.master.run.status(0.0)
    seats = [(s.layer, s.state, s.slave, s.incarnation, s.beat, s.telemetry.done) for s in status.seats]
    numbers = {}
    for name in status.versions:
        reading = master.master.store.read(name)
        numbers[name] = bytes(reading.buffer)
        reading.release()
    leases = [(lease["incarnation"], lease["proof"], lease["done"]) for lease in kept["roster"]["leases"]]
    return seats, status.versions, numbers, leases, status.waiting_slaves


# Credentials of one who has read an incarnation from /status.
SHOWN: dict[str, Callable[[int], Credentials]] = {
    "nothing": lambda _: NOBODY,
    "a number": Credentials,
    "a wrong secret": lambda held: Credentials(held, "0" * 32),
    "a hash from roster.json": lambda held: Credentials(held, "hash"),
}


@pytest.mark.parametrize("which", SHOWN)
def test_whoever_has_no_secret_ends_no_run_takes_no_seat_and_spoils_no_layer(
    attacked: Attacked, which: str
) -> None:
    master = attacked.master
    kept = json.loads((master.state.path / "roster.json").read_text())["roster"]["leases"]
    proofs = {lease["incarnation"]: lease["proof"] for lease in kept}
    before = state(master)
    for seat in control.call(master.channel, methods.STATUS, StatusRequest()).seats:
        shown = SHOWN[which](seat.incarnation)
        if shown.secret == "hash":
            shown = Credentials(seat.incarnation, proofs[seat.incarnation])
        for attack in attacks(attacked, seat.incarnation, seat.layer, shown):
            with pytest.raises(UnprovenError):
                attack()
    assert state(master) == before


def attacks(attacked: Attacked, held: int, layer: int, shown: Credentials) -> list[Callable[[], object]]:
    """Uses of an incarnation that belongs to another."""
    master, tls = attacked.master, attacked.tls
    done = HeartbeatRequest(held, 1, Telemetry(done=True))
    return [
        lambda: call(master, methods.HEARTBEAT, done, shown),
        lambda: call(master, methods.LEAVE, LeaveRequest(held, "begone"), shown),
        lambda: push(master, update((9.0, 9.0), 1, incarnation=held), shown, tls),
        lambda: push(master, creation((9.0, 9.0), incarnation=held, shard="1/gradient"), shown, tls),
        lambda: asyncio.run(exchange(master, held, layer, shown, tls)),
    ]


def call(master: Served, method: Any, request: Any, shown: Credentials) -> Any:
    return control.call(master.channel, method, request, DEADLINE, shown)


def push(master: Served, pushed: Any, shown: Credentials, tls: Tls | None = None) -> None:
    header, pieces = pushed
    client = DataClient(lambda: split_address(master.data_address), shown, tls)
    try:
        with client.call(PUSH) as call:
            for frame in frames(header, pieces[0][1]):
                call.send(*frame_parts(frame))
            call.read(DEADLINE)
    finally:
        client.drop()


async def exchange(master: Served, held: int, layer: int, shown: Credentials, tls: Tls | None) -> None:
    neighbour = layer + 1 if layer < len(SLAVES) else layer - 1
    hello = BoundaryMessage(BoundaryKind.PAIR, neighbour, incarnation=held, run=master.master.run.identity)
    async with opened(*split_address(master.data_address), EXCHANGE, shown=shown, tls=tls) as stream:
        await stream.write(encode_boundary(hello))
        await stream.read()


def test_the_secret_of_one_seat_moves_no_other(master: Served) -> None:
    before, mine = state(master), master.shown(1)
    for request, method in (
        (HeartbeatRequest(2, 1, Telemetry(done=True)), methods.HEARTBEAT),
        (LeaveRequest(2), methods.LEAVE),
    ):
        with pytest.raises(UnprovenError, match="names incarnation 2, and the call has shown incarnation 1"):
            call(master, method, request, mine)
    with pytest.raises(UnprovenError):
        push(master, update((9.0, 9.0), 1, incarnation=2, shard="2/weights"), mine)
    assert state(master) == before


@pytest.mark.parametrize("key", ["", "0" * 32, key_of("z")])
def test_the_name_of_a_slave_gets_nobody_its_lease(master: Served, key: str) -> None:
    before = state(master)
    with pytest.raises(LayerwiseError, match=r"key of 32|another process holds a lease as a"):
        call(master, methods.JOIN, JoinRequest("a", key=key), master.joiner)
    assert state(master) == before


def test_three_joins_with_an_empty_creation_and_a_leave_change_nothing(tmp_path: Path) -> None:
    """Without a right to join nobody gets so far as to create a shard."""
    with served(tmp_path) as master:
        before = state(master)
        for name in SLAVES:
            for shown in (NOBODY, Credentials(token="0" * 32)):
                with pytest.raises(UnprovenError, match="--join-token-file"):
                    call(master, methods.JOIN, JoinRequest(name, key=key_of(name)), shown)
        for held in (1, 2, 3):
            empty = creation((), incarnation=held, shard=f"{held}/weights")
            with pytest.raises(LayerwiseError):
                push(master, empty, Credentials(held, "0" * 32))
            with pytest.raises(LayerwiseError):
                call(master, methods.LEAVE, LeaveRequest(held), Credentials(held, "0" * 32))
        assert state(master) == before


def test_a_slaves_certificate_gets_no_lease_of_another_and_no_deed_of_an_operator(tmp_path: Path) -> None:
    """Even with the secrets of the other's lease: it is bound to the certificate that took it."""
    own, honest = identity(tmp_path / "master", Role.MASTER), identity(tmp_path / "honest", Role.SLAVE)
    intruder = identity(tmp_path / "intruder", Role.SLAVE, name="intruder")
    with served(tmp_path / "state", identity=own, caller=honest) as master:
        take_seats(master)
        before, attack = state(master), Attacked(master, intruder)
        own_channel = master.channel
        with control.channel(master.address, intruder) as master.channel:
            for seat in control.call(master.channel, methods.STATUS, StatusRequest()).seats:
                for use in attacks(attack, seat.incarnation, seat.layer, master.shown(seat.incarnation)):
                    with pytest.raises(UnprovenError, match="bound to another certificate than intruder"):
                        use()
            for name in SLAVES:
                with pytest.raises(LayerwiseError, match="another process holds a lease as"):
                    call(master, methods.JOIN, JoinRequest(name, key="0" * 32), NOBODY)
            for method, request in (
                (methods.REPORT, Evaluation(test_loss=1.0)),
                (methods.SNAPSHOT, SnapshotRequest()),
                (methods.ROLLBACK, RollbackRequest()),
            ):
                with pytest.raises(ForbiddenError, match="certificate of intruder has the role slave"):
                    call(master, method, request, NOBODY)
        master.channel = own_channel
        assert state(master) == before


def test_a_join_that_is_sent_again_gets_the_same_lease_and_secret(master: Served) -> None:
    again = call(master, methods.JOIN, JoinRequest("b", key=key_of("b")), master.joiner)
    assert (again.incarnation, again.secret) == (2, master.secrets[2])


def test_a_secret_is_of_no_more_use_after_its_lease(master: Served) -> None:
    master.leave(1)
    with pytest.raises(FencedError):
        call(master, methods.HEARTBEAT, HeartbeatRequest(1), master.shown(1))
    heir = master.join("d")
    assert heir.layer == 1
    with pytest.raises(UnprovenError):
        call(
            master,
            methods.HEARTBEAT,
            HeartbeatRequest(heir.incarnation),
            Credentials(heir.incarnation, master.secrets[1]),
        )


def test_a_master_that_starts_again_knows_the_secrets_of_its_leases(tmp_path: Path) -> None:
    with served(tmp_path) as first:
        held, neighbour = first.join("a"), first.join("b")
        pair = first.master.run.roster._keyring.pair(1, 2)
    with served(tmp_path) as second:
        second.secrets.update(first.secrets)
        assert not second.call(methods.HEARTBEAT, HeartbeatRequest(held.incarnation, 1)).over
        with pytest.raises(UnprovenError):
            call(second, methods.HEARTBEAT, HeartbeatRequest(1), Credentials(1, neighbour.secret))
        assert second.join("a").secret == held.secret
        assert second.master.run.roster._keyring.pair(2, 1) == pair


def test_no_secret_is_stored_logged_or_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with served(tmp_path) as master:
        leases = [master.join(name) for name in SLAVES]
        for lease in leases:
            master.call(methods.HEARTBEAT, HeartbeatRequest(lease.incarnation, 1))
            with pytest.raises(UnprovenError):
                call(master, methods.LEAVE, LeaveRequest(1), master.shown(2))
        shown = [repr(lease) for lease in leases] + [repr(master.master.status())]
        shown += [repr(control.call(master.channel, methods.STATUS, StatusRequest()))]
        shown += [repr(JoinRequest("a", key=key_of("a"))), repr(master.shown(1))]
        secrets = [*master.secrets.values(), *(key_of(name) for name in SLAVES)]
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    shown += [path.read_text(errors="replace") for path in stored] + [caplog.text]
    for secret in secrets:
        assert not any(secret in text for text in shown)
    assert (tmp_path / "keyring").stat().st_mode & 0o777 == 0o600


def test_refused_calls_are_counted_by_reason(master: Served) -> None:
    for request, method, shown in (
        (LeaveRequest(1), methods.LEAVE, NOBODY),
        (JoinRequest("z", key=key_of("z")), methods.JOIN, NOBODY),
        (RollbackRequest(1), methods.ROLLBACK, master.joiner),
        (LeaveRequest(99), methods.LEAVE, Credentials(99, "0" * 32)),
    ):
        with pytest.raises(LayerwiseError):
            call(master, method, request, shown)
    text = scrape(master.master.view()).decode()
    for reason, count in (("unauthenticated", 2), ("permission_denied", 1), ("aborted", 1)):
        assert f'layerwise_refused_total{{profile="light",reason="{reason}"}} {count}.0' in text


def test_a_holder_that_shows_its_secret_may_read_as_a_reader(master: Served) -> None:
    client = DataClient(lambda: split_address(master.data_address), master.shown(1))
    header, buffer = pull(client, PullRequest("1/weights"), DEADLINE)
    client.drop()
    assert (header.operation, np.frombuffer(buffer, np.float32).tolist()) == (Operation.VALUE, [1.0, 2.0])
