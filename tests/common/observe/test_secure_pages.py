"""Pages over TLS: for visitors with a certificate of a role."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.net import access
from common.net.access import Role
from common.net.identity import CA, CERTIFICATE, KEY
from common.observe import web
from common.observe.web import Page, Site, pages_identity, serve_on_thread
from tests.authority import identity, write_certificate

DEADLINE = 10.0


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    own = identity(tmp_path / "master", Role.MASTER)
    with serve_on_thread(
        Site({"/": lambda: Page(b"hello")}, identity=own, run="mine"), "127.0.0.1:0", "--web"
    ) as address:
        yield int(address.rpartition(":")[2])


def visitor(folder: Path, *, shows: bool = True) -> ssl.SSLContext:
    """A browser's context, which checks the host's name."""
    context = ssl.create_default_context(cafile=str(folder / CA))
    if shows:
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    return context


def answer(port: int, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), DEADLINE) as stream,
        context.wrap_socket(stream, server_hostname="localhost") as talking,
    ):
        talking.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        found = b""
        while piece := talking.recv(1 << 16):
            found += piece
    return found.decode()


def is_turned_away(port: int, context: ssl.SSLContext) -> bool:
    """Whether a visitor gets no answer: TLS 1.3 lets a visitor speak before the server has looked."""
    try:
        return answer(port, context) == ""
    except (ssl.SSLError, ConnectionError):
        return True


def test_a_visitor_with_a_role_gets_the_page(port: int, tmp_path: Path) -> None:
    for role in (Role.READER, Role.OPERATOR, Role.SLAVE):
        found = answer(port, visitor(write_certificate(tmp_path / role.value, role)))
        assert found.startswith("HTTP/1.1 200 OK")
        assert found.endswith("hello")


def test_a_visitor_without_a_role_or_certificate_gets_none(port: int, tmp_path: Path) -> None:
    found = answer(port, visitor(write_certificate(tmp_path / "other", Role.MASTER)))
    assert found.startswith("HTTP/1.1 403 Forbidden")
    assert "the certificate of master has the role master here; show one with" in found
    found = answer(port, visitor(write_certificate(tmp_path / "stranger", Role.READER, run="another")))
    assert found.startswith("HTTP/1.1 403 Forbidden")
    assert is_turned_away(port, visitor(tmp_path / "other", shows=False))
    foreign = write_certificate(tmp_path / "foreign", Role.READER, signer="foreign")
    (foreign / CA).write_bytes((tmp_path / "master" / CA).read_bytes())
    assert is_turned_away(port, visitor(foreign))


def test_a_visitor_in_the_clear_is_told_of_https(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        found = b""
        while piece := plain.recv(1 << 16):
            found += piece
    assert found.startswith(b"HTTP/1.1 400 Bad Request")
    assert found.endswith(b"these pages speak TLS alone; ask for them by https, with a certificate\n")


def test_a_visitor_whose_certificate_has_ended_gets_none(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed session asks for no certificate again."""
    context = visitor(write_certificate(tmp_path / "reader", Role.READER))
    monkeypatch.setattr(access, "time", SimpleNamespace(time=lambda: time.time() + 3 * 86400))
    found = answer(port, context)
    assert found.startswith("HTTP/1.1 403 Forbidden")
    assert "the certificate of reader has ended" in found


def test_a_visitor_that_does_not_part_is_left_in_time(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "SEND_SECONDS", 0.2)
    context = visitor(write_certificate(tmp_path / "reader", Role.READER))
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as stream:
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        talking = context.wrap_bio(there, back, server_hostname="localhost")
        began = False
        while not began:
            try:
                talking.do_handshake()
                began = True
            except ssl.SSLWantReadError:
                stream.sendall(back.read())
                there.write(stream.recv(1 << 16))
        talking.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream.sendall(back.read())
        # Neither reads the end of the session, nor ends its own.
        with contextlib.suppress(ConnectionResetError):
            while stream.recv(1 << 16):
                pass


def test_changed_certificates_serve_the_next_visitor(port: int, tmp_path: Path) -> None:
    write_certificate(tmp_path / "master", Role.MASTER, signer="new")
    context = visitor(write_certificate(tmp_path / "reader", Role.READER, signer="new"))
    assert answer(port, context).endswith("hello")


def test_pages_on_loopback_and_by_insecure_are_in_the_clear(tmp_path: Path) -> None:
    own = identity(tmp_path, Role.MASTER)
    assert pages_identity(own, "0.0.0.0:8080", False) is own
    assert pages_identity(own, "0.0.0.0:8080", True) is None
    assert pages_identity(own, "127.0.0.1:8080", False) is None
    assert pages_identity(None, "0.0.0.0:8080", False) is None
