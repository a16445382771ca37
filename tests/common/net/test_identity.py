"""common.net.identity: files that fit, files that do not, and files that change."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import common.net.identity
from common.credentials import Certificate
from common.errors import ConfigError, LayerwiseError, RefusedError, UnreachableError
from common.net.access import Role, role_uri, roles_of
from common.net.data import streams
from common.net.data.server import DataServer
from common.net.data.streams import opened
from common.net.http2.handshakes import end_of
from common.net.identity import CA, CERTIFICATE, KEY, Files, Identity, check_peer, find_identity
from common.net.probing import find_refusal
from common.wire.methods import EXCHANGE, PUSH
from deploy.certificates.making import Authority
from tests.authority import identity, write_certificate
from tests.common.net.test_tls import call, echo, echo_open
from tests.integration.processes import until

DEADLINE = 20.0


def load(folder: Path) -> Identity:
    found = find_identity(folder)
    assert found is not None
    return found


def copy(source: Path, name: str, target: Path) -> None:
    (target / name).write_bytes((source / name).read_bytes())


def test_a_certificate_tells_its_holder_roles_and_end(tmp_path: Path) -> None:
    own = identity(tmp_path, Role.SLAVE, name="slave-1").certificate
    assert own.holder == "slave-1"
    assert own.uris == ("layerwise:slave",)
    assert own.ends == pytest.approx(time.time() + 2 * 86400, abs=3700)


@pytest.mark.parametrize("year", [2030, 2045])
def test_the_end_of_a_certificate_is_read_from_the_certificate_itself(year: int) -> None:
    """gRPC hands certificates over, and not their ends. From 2050 on times have another form."""
    made = Authority.new(datetime.datetime(year, 1, 31, 12, tzinfo=datetime.UTC)).certificate
    assert made.not_valid_after_utc.year == year + 10
    assert end_of(made.public_bytes(serialization.Encoding.DER)) == made.not_valid_after_utc.timestamp()


def test_nothing_is_loaded_where_nothing_is_given(tmp_path: Path) -> None:
    assert find_identity(None) is None
    folder = write_certificate(tmp_path, Role.MASTER)
    found = find_identity(None, (folder / CA, folder / CERTIFICATE, folder / KEY))
    assert found is not None
    assert found.certificate.holder == "master"


def lack(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def spoil(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("-----BEGIN NOTHING-----")


def other(name: str) -> Callable[[Path], object]:
    return lambda folder: copy(write_certificate(folder / "other", Role.SLAVE), name, folder)


def swap_ca(folder: Path) -> None:
    copy(write_certificate(folder.parent / "foreign", Role.SLAVE, signer="foreign"), CA, folder)


def expire(folder: Path) -> None:
    write_certificate(folder, Role.SLAVE, age=9)


def hurry(folder: Path) -> None:
    write_certificate(folder, Role.SLAVE, age=-9)


@pytest.mark.parametrize(
    ("harm", "kind", "words"),
    [
        (lack(CA), ConfigError, "ca.pem: No such file or directory; give a folder with ca.pem"),
        (lack(CERTIFICATE), ConfigError, "certificate.pem: No such file"),
        (lack(KEY), ConfigError, "key.pem: No such file"),
        (spoil(CA), ConfigError, "ca.pem: has no certificate of an authority"),
        (spoil(CERTIFICATE), ConfigError, "the two are no certificate and plain key"),
        (spoil(KEY), ConfigError, "the two are no certificate and plain key"),
        (lambda folder: (folder / KEY).write_text("hm"), ConfigError, "key.pem: is no file in PEM"),
        (other(KEY), ConfigError, "key.pem: is not the key of"),
        (swap_ca, RefusedError, "cannot be trusted by"),
        (expire, RefusedError, "certificate has expired; have the authority make a new certificate"),
        (hurry, RefusedError, "certificate is not yet valid"),
    ],
)
def test_files_that_cannot_be_used_have_one_clear_error(
    harm: Callable[[Path], object], kind: type[LayerwiseError], words: str, tmp_path: Path
) -> None:
    folder = write_certificate(tmp_path / "own", Role.SLAVE)
    harm(folder)
    with pytest.raises(kind, match=words) as raised:
        load(folder)
    assert str(raised.value).startswith(f"--tls {folder}: ")


def test_the_folder_above_names_a_folder_within(tmp_path: Path) -> None:
    write_certificate(tmp_path / "slave-1", Role.SLAVE)
    with pytest.raises(ConfigError, match=f"one of the folders in {tmp_path}, such as {tmp_path}/slave-1"):
        load(tmp_path)


def test_roles_are_names_of_one_form(tmp_path: Path) -> None:
    def roles(*uris: str) -> set[str]:
        return {role.value for role in roles_of(Certificate("x", uris), "mine")}

    assert roles("layerwise:slave", "layerwise:reader:mine", role_uri(Role.STORE, "mine")) == {
        "slave", "reader", "store",
    }  # fmt: skip
    assert roles("layerwise:slave:other", "layerwise:slaves", "layerwise:slave:", "Layerwise:slave") == set()
    assert (
        roles("layerwise:", "layerwise", "", "slave", "spiffe://layerwise/slave", "layerwise://slave")
        == set()
    )


def test_a_peer_without_the_role_is_refused(tmp_path: Path) -> None:
    own = identity(tmp_path, Role.READER)
    with pytest.raises(RefusedError, match="the certificate of reader does not have the role master"):
        check_peer(Role.MASTER, None, own.certificate)
    with pytest.raises(RefusedError, match="no certificate was shown"):
        check_peer(Role.MASTER, None, None)
    with pytest.raises(RefusedError, match=r"a certificate with the name master\.layerwise\.internal"):
        check_peer(Role.MASTER, None, Certificate("half", ("layerwise:master",)))
    with pytest.raises(
        ConfigError, match=f"--tls {tmp_path}: the certificate of reader does not have the role"
    ):
        own.check_own_role(Role.MASTER, "mine")


class Port:
    """Data port with certificates."""

    def __init__(self, identity: Identity) -> None:
        self.own = identity
        self.errors: list[LayerwiseError] = []
        self.server = DataServer(self.errors.append, tls=identity.serve())
        self.server.add(PUSH, echo)
        self.port = self.server.start("127.0.0.1", 0)

    def call(self, caller: Identity, role: Role = Role.MASTER) -> bytes:
        return call(self.port, caller.call(role))

    def shown(self, caller: Identity) -> bytes:
        """Certificate that the port shows."""
        context = caller.call(Role.MASTER).context()
        with (
            socket.create_connection(("127.0.0.1", self.port), DEADLINE) as stream,
            context.wrap_socket(stream) as talking,
        ):
            return talking.getpeercert(binary_form=True) or b""


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    made = Port(identity(tmp_path / "master", Role.MASTER))
    yield made
    made.server.stop()


def test_both_ends_know_each_other(port: Port, tmp_path: Path) -> None:
    caller = identity(tmp_path / "slave", Role.SLAVE)
    assert port.call(caller) == b"abc"
    with pytest.raises(RefusedError, match=r"127\.0\.0\.1:.* of master does not have the role slave"):
        port.call(caller, Role.SLAVE)


def test_certificates_of_other_authorities_are_refused_at_both_ends(port: Port, tmp_path: Path) -> None:
    foreign = write_certificate(tmp_path / "foreign", Role.SLAVE, signer="foreign")
    with pytest.raises(RefusedError, match="the certificate of a peer is not trusted"):
        port.call(load(foreign))
    # A caller that trusts the port, which does not trust the caller.
    both = (foreign / CA).read_bytes() + (write_certificate(tmp_path / "own", Role.SLAVE) / CA).read_bytes()
    (foreign / CA).write_bytes(both)
    with pytest.raises(RefusedError, match="a peer does not trust the certificate of this end"):
        port.call(load(foreign))
    until(lambda: [type(error) for error in port.errors] == [RefusedError, RefusedError], DEADLINE)


def test_a_caller_without_a_certificate_is_refused_and_counted(port: Port, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(write_certificate(tmp_path / "own", Role.SLAVE) / CA))
    with (
        socket.create_connection(("127.0.0.1", port.port), DEADLINE) as stream,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake"),
        context.wrap_socket(stream, server_hostname="localhost") as talking,
    ):
        talking.recv(1)
    until(lambda: bool(port.errors), DEADLINE)
    assert str(port.errors[0]) == "a peer has shown no certificate; give it the folder of one by --tls DIR"


def test_changed_files_serve_new_connections_at_both_ends(port: Port, tmp_path: Path) -> None:
    caller = identity(tmp_path / "slave", Role.SLAVE)
    before = port.shown(caller)
    assert port.shown(caller) == before
    write_certificate(tmp_path / "master", Role.MASTER, signer="new")
    with pytest.raises(RefusedError, match="is not trusted"):
        port.call(caller)
    write_certificate(tmp_path / "slave", Role.SLAVE, signer="new")
    assert port.call(caller) == b"abc"
    assert port.shown(caller) != before


def test_files_that_do_not_fit_each_other_leave_the_old_ones_in_place(
    port: Port, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caller = identity(tmp_path / "slave", Role.SLAVE)
    before = port.shown(caller)
    fresh = write_certificate(tmp_path / "fresh", Role.MASTER)
    copy(fresh, CERTIFICATE, tmp_path / "master")
    for _ in range(3):
        assert port.shown(caller) == before
    assert caplog.text.count("the old ones serve on") == 1
    copy(fresh, KEY, tmp_path / "master")
    assert port.shown(caller) != before
    os.unlink(tmp_path / "master" / CA)
    assert port.call(caller) == b"abc"


def test_an_open_stream_ends_with_the_certificate_of_its_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = identity(tmp_path / "slave", Role.SLAVE)

    async def work() -> None:
        server = DataServer(tls=identity(tmp_path / "master", Role.MASTER).serve())
        server.add_open(EXCHANGE, echo_open, asyncio.get_running_loop())
        port = server.start("127.0.0.1", 0)
        try:
            async with opened("127.0.0.1", port, EXCHANGE, tls=caller.call(Role.MASTER)) as stream:
                await stream.write(b"abc")
                assert bytes(await stream.read() or b"") == b"abc"
                monkeypatch.setattr(streams, "time", SimpleNamespace(time=lambda: time.time() + 3 * 86400))
                with pytest.raises(UnreachableError):
                    await asyncio.wait_for(stream.read(), DEADLINE)
        finally:
            await asyncio.to_thread(server.stop)

    monkeypatch.setattr(streams, "PING_SECONDS", 0.05)
    asyncio.run(work())


def test_a_connection_changes_nothing_that_other_handshakes_read(
    port: Port, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = identity(tmp_path / "slave", Role.SLAVE)

    def fail(_: object) -> None:
        raise AssertionError("another thread may be reading the protocols")

    for context in (caller.call(Role.MASTER).context(), port.own.serve().context()):
        monkeypatch.setattr(context, "set_alpn_protocols", fail)
    assert port.call(caller) == b"abc"


def test_files_that_cannot_be_used_yet_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = identity(tmp_path, Role.SLAVE, name="old")
    monkeypatch.setattr("common.net.identity.RETRY_SECONDS", 0.2)
    loading = common.net.identity._load
    with monkeypatch.context() as patch:
        tried: list[object] = []

        def refuse(files: Files) -> NoReturn:
            tried.append(files)
            raise RefusedError("not yet valid")

        patch.setattr("common.net.identity._load", refuse)
        write_certificate(tmp_path, Role.SLAVE, name="new")
        until(lambda: own.generation() is not None and len(tried) >= 2, DEADLINE)
        assert own.certificate.holder == "old"
    assert common.net.identity._load is loading
    until(lambda: own.generation() is not None and own.certificate.holder == "new", DEADLINE)
    assert caplog.text.count("the old ones serve on") == 1


def test_authorities_may_have_words_in_any_script_beside_them(tmp_path: Path) -> None:
    folder = write_certificate(tmp_path, Role.SLAVE)
    (folder / CA).write_bytes("# Gr\u00f6\u00dfte Authorit\u00e9\n".encode() + (folder / CA).read_bytes())
    assert load(folder).certificate.holder == "slave"


def test_a_key_that_tls_does_not_know_has_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_certificate(tmp_path, Role.SLAVE)
    monkeypatch.setattr(ec, "SECP256R1", ec.SECP256K1)
    write_certificate(tmp_path, Role.SLAVE)
    with pytest.raises(
        RefusedError, match="cannot be used for TLS: no shared cipher; have the authority make"
    ):
        load(tmp_path)


def test_a_role_for_one_run_is_none_in_another(tmp_path: Path) -> None:
    own = identity(tmp_path, Role.MASTER, run="mine")
    own.check_own_role(Role.MASTER, "mine")
    with pytest.raises(ConfigError, match="does not have the role master in runs named other"):
        own.check_own_role(Role.MASTER, "other")
    for run, allowed in (("mine", True), ("other", False), (None, True)):
        with nullcontext() if allowed else pytest.raises(RefusedError, match="in runs named other"):
            own.call(Role.MASTER, run).check(own.certificate)


@pytest.mark.parametrize("ends", [True, False])
def test_a_peer_that_ends_just_then_does_not_refuse(tmp_path: Path, ends: bool) -> None:
    """One that hangs up on every connection does."""
    context = identity(tmp_path / "master", Role.MASTER).serve().context()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def hang_up() -> None:
        for _ in range(1 if ends else 2):
            stream, _ = listening.accept()
            if ends:
                listening.close()
            with context.wrap_socket(stream, server_side=True):
                pass

    thread = threading.Thread(target=hang_up)
    thread.start()
    found = find_refusal(f"127.0.0.1:{port}", identity(tmp_path / "reader", Role.READER))
    thread.join(DEADLINE)
    listening.close()
    assert (found is None) == ends


def test_threads_may_ask_while_files_change(tmp_path: Path) -> None:
    own = identity(tmp_path, Role.SLAVE)
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(50):
            if not isinstance(own.call(Role.MASTER).context(), ssl.SSLContext):
                wrong.append(own)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        write_certificate(tmp_path, Role.SLAVE)
    for thread in threads:
        thread.join(DEADLINE)
    assert not wrong
