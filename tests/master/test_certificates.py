"""Every method with every certificate and every secret, at every port: only those who may are let in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from common.credentials import NOBODY, Certificate, Credentials
from common.errors import UnprovenError, UnreachableError
from common.net import control
from common.net.access import Role, role_uri
from common.net.data.places import Bounds
from common.net.identity import CA, CERTIFICATE, KEY, MASTER_NAME, find_identity
from common.net.listening import open_listener
from common.wire.messages import StatusRequest
from common.wire.methods import EXCHANGE, STATUS
from master.access import Access
from slave.network.endpoint import Endpoint
from slave.network.servicer import BoundaryServer
from tests.authority import identity, write_certificate
from tests.integration.processes import until
from tests.master.served import Served, served
from tests.master.test_access import DATA_PORT, DESCRIBED, status_of

ALL = {"slave", "store", "evaluator", "operator", "reader"}
# Roles that may call a method, written down a second time: a changed row must be meant.
MAY = {
    "Roster/Describe": ALL,
    "Roster/Join": {"slave"},
    "Roster/Heartbeat": {"slave"},
    "Roster/Leave": {"slave"},
    "Roster/Status": ALL,
    "Roster/Report": {"evaluator", "operator"},
    "Roster/Reach": {"slave", "operator"},
    "Roster/Agree": {"slave", "evaluator", "operator"},
    "Roster/Resize": {"operator"},
    "Parameters/Push": {"slave"},
    "Parameters/Pull": ALL,
    "Boundary/Exchange": {"slave"},
    "Synthesis/Synthesize": {"slave"},
    "Keeper/Snapshot": {"operator"},
    "Keeper/Snapshots": ALL,
    "Keeper/Rollback": {"operator"},
    "Stores/Attend": {"store"},
    "Stores/Locate": ALL,
    "Stores/Place": {"slave"},
}
LEASED = {name for name, roles in MAY.items() if roles == {"slave"}} - {"Roster/Join"}
# Certificates by name, and the role in this run that each gives; None: the handshake fails.
CERTIFICATES: dict[str, str | None] = {
    **{role.value: role.value for role in Role},
    "slave of this run": "slave",
    "slave of another run": "none",
    "another slave": "slave",
    "no certificate": None,
    "expired": None,
    "of another authority": None,
    "in the clear": None,
}
SECRETS = (
    "nothing", "lease", "wrong secret", "another's lease", "ended lease", "operator token", "wrong token",
)  # fmt: skip
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "ABORTED"}


@dataclass
class Cluster:
    """Master with leases of `slave` and `another slave`, a slave's port, and folders of certificates."""

    master: Served
    slaves_port: str
    folder: Path

    def credentials(self, secret: str) -> Credentials:
        secrets = self.master.secrets
        return {
            "nothing": NOBODY,
            "lease": Credentials(1, secrets[1]),
            "wrong secret": Credentials(1, "0" * 32),
            "another's lease": Credentials(2, secrets[2]),
            "ended lease": Credentials(3, secrets[3]),
            "operator token": self.master.operator,
            "wrong token": Credentials(token="0" * 32),
        }[secret]

    def channel(self, address: str, certificate: str) -> grpc.Channel:
        """Open a channel as any client can, past the checks of our own."""
        name = "localhost" if address == self.slaves_port else MASTER_NAME
        options = [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1)]
        if certificate == "in the clear":
            return grpc.insecure_channel(address, options=options[1:])
        folder = self.folder / certificate
        ca = (self.folder / "master" / CA).read_bytes()
        if certificate == "no certificate":
            return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options=options)
        key, chain = (folder / KEY).read_bytes(), (folder / CERTIFICATE).read_bytes()
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, chain), options=options)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("certificates")
    for role in Role:
        write_certificate(folder / role.value, role)
    write_certificate(folder / "slave of this run", Role.SLAVE, name="slave", run="layerwise")
    write_certificate(folder / "slave of another run", Role.SLAVE, name="slave", run="another")
    write_certificate(folder / "another slave", Role.SLAVE, name="another slave")
    write_certificate(folder / "expired", Role.SLAVE, name="slave", age=9)
    write_certificate(folder / "of another authority", Role.SLAVE, name="slave", signer="foreign")
    own = identity(folder / "master", Role.MASTER)
    slave = identity(folder / "slave", Role.SLAVE)
    endpoint = Endpoint("127.0.0.1:1", identity=slave, run="layerwise")
    server = BoundaryServer(Bounds(64, 64, 64, 64), endpoint.loop, identity=slave, run="layerwise")
    try:
        address = f"127.0.0.1:{server.start(open_listener('127.0.0.1', 0))}"
        with served(folder / "state", identity=own, caller=slave) as running:
            running.join("a")
            own_channel = running.channel
            with control.channel(running.address, find_identity(folder / "another slave")) as running.channel:
                running.join("b")
            running.channel = own_channel
            running.join("c")
            running.leave(3)
            yield Cluster(running, address, folder)
    finally:
        server.stop()
        endpoint.close()


def may(name: str, certificate: str, secret: str) -> bool:
    if secret in ("wrong secret", "ended lease", "wrong token"):
        return False
    # Each lease is bound to the certificate that took it.
    holder = {"lease": ("slave", "slave of this run"), "another's lease": ("another slave",)}.get(secret)
    if holder is not None and certificate not in holder:
        return False
    return CERTIFICATES[certificate] in MAY[name] and (name not in LEASED or holder is not None)


@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_a_masters_ports_let_in_those_alone_who_may_call(cluster: Cluster, certificate: str) -> None:
    wrong = []
    control_port = cluster.channel(cluster.master.address, certificate)
    for name in DESCRIBED:
        for secret in SECRETS if CERTIFICATES[certificate] else SECRETS[:2]:
            channel = control_port
            if name.startswith(DATA_PORT):
                channel = cluster.channel(cluster.master.data_address, certificate)
            code = status_of(channel, name, cluster.credentials(secret))
            if channel is not control_port:
                channel.close()
            wanted = (
                {"UNAVAILABLE"}
                if CERTIFICATES[certificate] is None
                else {"INVALID_ARGUMENT"}
                if may(name, certificate, secret)
                else REFUSED
            )
            if code not in wanted:
                wrong.append((name, secret, code))
    control_port.close()
    assert not wrong


@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_a_slaves_port_lets_in_slaves_of_the_run_alone(cluster: Cluster, certificate: str) -> None:
    wrong = []
    for name in DESCRIBED:
        with cluster.channel(cluster.slaves_port, certificate) as channel:
            code = status_of(channel, name, NOBODY)
        served_here = name == "Boundary/Exchange"
        wanted = "UNIMPLEMENTED"
        if served_here:
            wanted = "INVALID_ARGUMENT" if CERTIFICATES[certificate] == "slave" else "PERMISSION_DENIED"
        if code != ("UNAVAILABLE" if CERTIFICATES[certificate] is None else wanted):
            wrong.append((name, code))
    assert not wrong


def test_every_method_has_a_row() -> None:
    assert set(MAY) == set(DESCRIBED)


def test_a_connection_that_outlives_its_certificate_is_refused(cluster: Cluster) -> None:
    roster = cluster.master.master.run.roster
    access = Access(roster, ("operator", "join"), "layerwise")
    ended = Certificate("reader", (role_uri(Role.READER),), ends=time.time() - 1)
    access.admit(STATUS.path, Credentials(certificate=replace(ended, ends=time.time() + 60)))
    with pytest.raises(UnreachableError, match="the certificate of reader has ended; connect anew"):
        access.admit(STATUS.path, Credentials(certificate=ended))
    with pytest.raises(UnprovenError, match="no certificate was shown"):
        access.admit(STATUS.path, NOBODY)


def test_a_slaves_port_refuses_a_certificate_that_has_ended(tmp_path: Path) -> None:
    """A resumed session asks for no certificate again."""
    bounds, own = Bounds(1, 1, 1, 1), identity(tmp_path, Role.SLAVE)
    endpoint = Endpoint("127.0.0.1:1")
    try:
        server = BoundaryServer(bounds, endpoint.loop, identity=own, run="layerwise")
        server._admit(EXCHANGE.path, Credentials(certificate=own.certificate))
        ended = replace(own.certificate, ends=time.time() - 1)
        with pytest.raises(UnreachableError, match="the certificate of slave has ended"):
            server._admit(EXCHANGE.path, Credentials(certificate=ended))
    finally:
        endpoint.close()


def test_a_connection_to_the_control_port_ends_with_its_certificate(tmp_path: Path) -> None:
    own, reader = identity(tmp_path / "master", Role.MASTER), identity(tmp_path / "reader", Role.READER)
    with served(tmp_path / "state", identity=own, caller=reader) as running:
        guard = running.ports.control._guard
        guard.stop()
        control.call(running.channel, STATUS, StatusRequest())
        ((peer, shown),) = guard._shown.items()
        assert shown.ends == reader.certificate.ends
        guard.look(time.monotonic(), shown.ends)
        control.call(running.channel, STATUS, StatusRequest())
        assert list(guard._shown) == [peer]
        guard.look(time.monotonic(), shown.ends + 1)

        def came_anew() -> bool:
            with suppress(UnreachableError):
                control.call(running.channel, STATUS, StatusRequest())
            return list(guard._shown)[-1] != peer

        until(came_anew)
