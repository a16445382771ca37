"""The HTTP side: what it answers, whom it turns away, and that nobody can hold it up."""

from __future__ import annotations

import contextlib
import socket
from base64 import b64encode
from collections.abc import Iterator

import pytest

from common.errors import ConfigError, MalformedError, RefusedError
from common.observe import web
from common.observe.hosts import check_hosts
from common.observe.readers import shows_token
from common.observe.visits import current_visit
from common.observe.web import Page, Site, serve_on_thread


def failing() -> Page:
    raise MalformedError("this page cannot be made")


TOKEN = "0123456789abcdef" * 2
SHOWN = f"Authorization: Bearer {TOKEN}"
PAGES = {"/": lambda: Page(b"hello", "text/html"), "/failing": failing}


@pytest.fixture
def port() -> Iterator[int]:
    with serve_on_thread(Site(PAGES), "127.0.0.1:0", "--web") as address:
        yield int(address.rpartition(":")[2])


def said(port: int, request: str) -> tuple[int, str, str]:
    """Status, head and body of the answer to a request as it goes over the wire."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as there:
        there.sendall(request.replace("\n", "\r\n").encode())
        answer = b""
        while piece := there.recv(1 << 16):
            answer += piece
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), head, body


def test_a_page_is_answered_and_a_head_has_no_body(port: int) -> None:
    status, head, body = said(port, "GET /?x=1 HTTP/1.1\nHost: localhost\n\n")
    assert (status, body) == (200, "hello")
    assert "Content-Length: 5" in head
    assert "default-src 'self'" in head
    status, head, body = said(port, "HEAD / HTTP/1.1\nHost: localhost\n\n")
    assert (status, body) == (200, "")
    assert "Content-Length: 5" in head


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /none HTTP/1.1\nHost: localhost\n\n", 404),
        ("GET /../etc/passwd HTTP/1.1\nHost: localhost\n\n", 404),
        ("POST / HTTP/1.1\nHost: localhost\nContent-Length: 0\n\n", 405),
        ("DELETE / HTTP/1.1\nHost: localhost\n\n", 405),
        ("GET / HTTP/1.1\n\n", 421),
        ("GET / HTTP/1.1\nHost: attacker.example\n\n", 421),
        ("GET / HTTP/1.1\nHost: attacker.example:80\n\n", 421),
        ("GET / HTTP/1.1\nHost: 192.0.2.1\n\n", 421),
        ("GET / HTTP/1.1\nHost: localhost\nHost: attacker.example\n\n", 421),
        ("GET / HTTP/1.1\nHost: 127.0.0.1:8080\n\n", 200),
        ("GET / HTTP/1.1\nHost: [::1]:8080\n\n", 200),
        ("GET /failing HTTP/1.1\nHost: localhost\n\n", 500),
        ("nonsense\n\n", 400),
        ("GET / HTTP/1.1\nX: " + 20_000 * "a" + "\n\n", 400),
    ],
)
def test_requests_and_their_status(port: int, request_: str, status: int) -> None:
    assert said(port, request_)[0] == status


def test_beyond_loopback_addresses_and_plain_names_are_known_and_others_not() -> None:
    with serve_on_thread(Site(PAGES, reader=TOKEN), "0.0.0.0:0", "--web") as address:
        port = int(address.rpartition(":")[2])
        for host, status in [("10.0.0.7:8080", 200), ("master:8080", 200), ("attacker.example", 421)]:
            assert said(port, f"GET / HTTP/1.1\nHost: {host}\n{SHOWN}\n\n")[0] == status, host


def test_beyond_loopback_pages_ask_for_the_readers_token_and_tell_whether_the_process_is_well() -> None:
    pages = {**PAGES, web.HEALTH: lambda: Page(b"well")}
    with serve_on_thread(Site(pages, reader=TOKEN), "0.0.0.0:0", "--web") as address:
        port = int(address.rpartition(":")[2])
        status, head, body = said(port, "GET / HTTP/1.1\nHost: localhost\n\n")
        assert (status, "reader.token" in body) == (401, True)
        assert "WWW-Authenticate: Basic" in head
        for path, right, wanted in [
            ("/", SHOWN, 200),
            ("/", "Authorization: Bearer " + "0" * 32, 401),
            ("/none", "X: none", 401),
            (web.HEALTH, "X: none", 200),
        ]:
            assert said(port, f"GET {path} HTTP/1.1\nHost: localhost\n{right}\n\n")[0] == wanted, (
                path,
                right,
            )


def test_pages_beyond_loopback_whose_process_knows_no_token_yet_are_for_nobody() -> None:
    with serve_on_thread(Site(PAGES), "0.0.0.0:0", "--metrics") as address:
        port = int(address.rpartition(":")[2])
        for right in ("Authorization: Bearer ", "Authorization: Basic " + b64encode(b"any:").decode()):
            assert said(port, f"GET / HTTP/1.1\nHost: localhost\n{right}\n\n")[0] == 401


@pytest.mark.parametrize(
    ("header", "shows"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        ("Basic " + b64encode(f"any:{TOKEN}".encode()).decode(), True),
        ("Basic " + b64encode(f":{TOKEN}".encode()).decode(), True),
        ("Basic " + b64encode(TOKEN.encode()).decode(), False),
        ("Basic " + b64encode(b"any:\xff").decode(), False),
        ("Basic ?", False),
        (f"Digest {TOKEN}", False),
        (f"Bearer {TOKEN}0", False),
        ("Bearer é", False),
        (TOKEN, False),
        ("", False),
    ],
)
def test_a_token_is_shown_as_bearer_or_as_a_password(header: str, shows: bool) -> None:
    assert shows_token([header], TOKEN) == shows
    assert not shows_token([header], "")
    assert not shows_token([], TOKEN)


def test_who_says_nothing_is_hung_up_on_and_others_are_answered(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
        silent.sendall(b"GET / HTT")
        assert said(port, "GET / HTTP/1.1\nHost: localhost\n\n")[0] == 200
        assert silent.recv(100) == b""


def test_idle_connections_keep_nobody_out(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(2 * web.CONNECTIONS)]
    try:
        for _ in range(3):
            assert said(port, "GET / HTTP/1.1\nHost: localhost\n\n")[0] == 200
        # The oldest have gone, before their time is over.
        assert [each.recv(1) for each in idle[: web.CONNECTIONS]] == [b""] * web.CONNECTIONS
    finally:
        for each in idle:
            each.close()


def test_visitors_that_take_no_answer_keep_nobody_out_and_cost_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web, "CONNECTIONS", 4)
    large = {"/": lambda: Page(bytes(16 << 20)), "/healthz": lambda: Page(b"ok")}
    with serve_on_thread(Site(large), "127.0.0.1:0", "--web") as address, contextlib.ExitStack() as stack:
        port = int(address.rpartition(":")[2])
        visitors = []
        for _ in range(5):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert slow.recv(4) == b"HTTP"
            visitors.append(slow)
        assert said(port, "GET /healthz HTTP/1.1\nHost: localhost\n\n")[0] == 200
        # The rest of the first answers is dropped.
        for slow in visitors[:2]:
            taken = 0
            with contextlib.suppress(ConnectionResetError):
                while piece := slow.recv(1 << 20):
                    taken += len(piece)
            assert taken < 16 << 20


def test_a_taken_port_is_refused(port: int) -> None:
    with (
        pytest.raises(RefusedError, match=rf"--metrics 127\.0\.0\.1:{port}"),
        serve_on_thread(Site(PAGES), f"127.0.0.1:{port}", "--metrics"),
    ):
        pass


def test_an_allowed_name_is_known_on_loopback_and_beyond_and_other_names_are_not() -> None:
    names = check_hosts(["Master.Runs.svc.cluster.local", "dash.example.org."])
    for listen in ("127.0.0.1:0", "0.0.0.0:0"):
        with serve_on_thread(Site(PAGES, names, reader=TOKEN), listen, "--web") as address:
            port = int(address.rpartition(":")[2])
            for host, status in [
                ("master.runs.svc.cluster.local:8080", 200),
                ("DASH.example.org", 200),
                ("dash.example.org.", 200),
                ("svc.cluster.local", 421),
                ("evil.dash.example.org", 421),
                ("dash.example.org.evil.example", 421),
            ]:
                assert said(port, f"GET / HTTP/1.1\nHost: {host}\n{SHOWN}\n\n")[0] == status, host


@pytest.mark.parametrize("name", ["http://x", "x:80", "x/y", "", "*", "a..b", "[::1]", "x\n", "é.example"])
def test_what_is_no_bare_name_of_a_host_cannot_be_allowed(name: str) -> None:
    with pytest.raises(ConfigError, match="--allow-host"):
        check_hosts([name])


def test_a_refused_name_is_told_how_to_be_allowed(port: int) -> None:
    assert "--allow-host" in said(port, "GET / HTTP/1.1\nHost: attacker.example\n\n")[2]


def test_a_page_knows_who_asks_and_which_address_was_reached() -> None:
    def seen() -> Page:
        visit = current_visit()
        return Page(f"{visit.peer} {visit.reached} {visit.local}".encode())

    with serve_on_thread(Site({"/": seen}, reader=TOKEN), "0.0.0.0:0", "--web") as address:
        port = int(address.rpartition(":")[2])
        assert said(port, f"GET / HTTP/1.1\nHost: localhost\n{SHOWN}\n\n")[2] == "127.0.0.1 127.0.0.1 True"


def test_a_page_whose_making_fails_is_answered_by_a_line_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = [KeyError("one\ntwo"), KeyError("three"), ZeroDivisionError()]

    def broken() -> Page:
        raise errors.pop(0)

    with serve_on_thread(Site({"/broken": broken}), "127.0.0.1:0", "--web") as address:
        port = int(address.rpartition(":")[2])
        answers = [said(port, "GET /broken HTTP/1.1\nHost: localhost\n\n") for _ in range(3)]
    assert [status for status, _, _ in answers] == [500, 500, 500]
    assert answers[0][2] == "this page cannot be made (KeyError); the log of the process says more\n"
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert logged == [KeyError, ZeroDivisionError]
