"""Read-only HTTP server of a few known paths, with which a process shows its state."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.errors import LayerwiseError
from common.net.access import check_certificate
from common.net.addresses import cannot_listen, is_loopback, split_address
from common.net.http2.handshakes import certificate_of
from common.net.identity import Identity
from common.net.listening import open_listener
from common.observe.hosts import plain_name
from common.observe.readers import ADVICE, CHALLENGE, shows_token
from common.observe.visits import begin_visit, first_byte
from common.supervision import SupervisedThread
from common.wire.methods import STATUS

log = logging.getLogger("layerwise.pages")

HEAD_BYTES = 8 << 10
HEAD_SECONDS = 5.0
SEND_SECONDS = 20.0
LINGER_SECONDS = 0.5
# Path of the page that probes of an orchestrator ask for, without a token.
HEALTH = "/healthz"
# First byte of a handshake.
TLS_GREETING = b"\x16"
# Begins the address of pages over TLS, in the master's list.
SECURE_PAGES = "https://"
# The newest connection takes the place of the oldest.
CONNECTIONS = 32

# No content comes from other origins, and no other site may frame the page.
_HEADERS = (
    "Cache-Control: no-store\r\n"
    "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'; base-uri 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Connection: close\r\n"
)
_REASONS = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    401: "Unauthorized", 421: "Misdirected Request", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """Body, type and status of an HTTP answer."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Pages = Mapping[str, Callable[[], Page]]


@dataclass
class Site:
    """Server of pages on an event loop; every request builds the page anew.

    A malicious web page can make a browser ask a server on the browser's own machine under a foreign name
    (DNS rebinding). So requests are answered only if their Host is an address, this machine's name or, beyond
    loopback, a name without a dot; and under the names of --allow-host.

    Attributes:
        pages: by path.
        hosts: further names under which requests are answered, as `check_hosts` returns them.
        identity: certificates, for pages over TLS to visitors with a certificate; None: in the clear.
        run: name of the run, for the roles in certificates; None: of any run.
        reader: token that visitors of pages beyond loopback show without certificates, except for /healthz;
            empty: nobody may see these pages yet.
    """

    pages: Pages
    hosts: frozenset[str] = frozenset()
    identity: Identity | None = None
    run: str | None = None
    reader: str = field(default="", repr=False)
    # Visitors, oldest first, and of them those that have sent no request yet.
    _open: dict[asyncio.Task[None], None] = field(default_factory=dict)
    _silent: dict[asyncio.Task[None], None] = field(default_factory=dict)
    # Paths and kinds of errors that the log has; a browser asks for a page every second.
    _logged: set[tuple[str, type[Exception]]] = field(default_factory=set)

    async def start(self, address: str, option: str) -> str:
        """Listen, and return the address with the real port.

        Args:
            address: HOST:PORT; port 0 takes a free port.
            option: option that gave the address, for the error message.

        Raises:
            ConfigError: the address is not HOST:PORT.
            RefusedError: the address cannot be listened on.
        """
        host, port = split_address(address)
        self._loopback = is_loopback(host)
        try:
            listening = open_listener(host, port, CONNECTIONS)
            self._server = await asyncio.start_server(
                self._accept, sock=listening, limit=HEAD_BYTES, backlog=CONNECTIONS
            )
        except OSError as error:
            raise cannot_listen(option, host, port, error.strerror) from None
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._enter(task)
        begin_visit(writer)
        try:
            refusal = await self._refusal(writer)
            page, head = await self._answer(reader)
            page = refusal or page
            self._silent.pop(task, None)
            writer.write(_encode(page, head))
            async with asyncio.timeout(SEND_SECONDS):
                await writer.drain()
            if page.status != 200:
                await _linger(reader, writer)
            if writer.get_extra_info("ssl_object") is not None:
                await _part(writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # A plain close would keep what a peer does not take.
            writer.transport.abort()
        finally:
            self._leave(task)
            writer.close()

    async def _refusal(self, writer: asyncio.StreamWriter) -> Page | None:
        """Shake hands over TLS, if the site has certificates; returns the page for a visitor without a role.

        The task must not have waited before: the visitor's greeting is for the handshake.
        """
        if self.identity is None:
            return None
        if await first_byte(writer, HEAD_SECONDS) != TLS_GREETING:
            return _text(400, "these pages speak TLS alone; ask for them by https, with a certificate")
        await writer.start_tls(self.identity.pages(), ssl_handshake_timeout=HEAD_SECONDS)
        certificate = certificate_of(writer.get_extra_info("ssl_object"))
        try:
            check_certificate(STATUS.path, certificate, self.run)
        except LayerwiseError as error:
            return _text(403, str(error))
        return None

    def _enter(self, task: asyncio.Task[None]) -> None:
        """Take a visitor in; beyond CONNECTIONS the oldest goes, first of those that have sent no request.

        Idle connections would otherwise keep out whoever asks whether the process is well.
        """
        self._open[task] = self._silent[task] = None
        if len(self._open) > CONNECTIONS:
            oldest = next(iter(self._silent if len(self._silent) > 1 else self._open))
            self._leave(oldest)
            oldest.cancel()

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        self._silent.pop(task, None)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Page, bool]:
        """Return the requested page, and True for a request of the head alone."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError:
            return _text(400, "the request is too long"), False
        line, *headers = head.split("\r\n")
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        found = [(name.lower(), value.strip()) for name, _, value in (h.partition(":") for h in headers)]
        hosts = [value for name, value in found if name == "host"]
        rights = [value for name, value in found if name == "authorization"]
        if not rest.rpartition(" ")[2].startswith("HTTP/1."):
            return _text(400, "the request is not HTTP/1"), False
        return self._page(method, path, hosts, rights), method == "HEAD"

    def _page(self, method: str, path: str, hosts: list[str], rights: list[str]) -> Page:
        if len(hosts) != 1 or not self._accepts(hosts[0]):
            requested = hosts[0] if hosts else ""
            return _text(
                421,
                f'no server here is called "{requested}"; use the address of this machine, or start the '
                "process with --allow-host NAME",
            )
        if method not in ("GET", "HEAD"):
            return _text(405, "pages are read-only; use GET or HEAD")
        guarded = self.identity is None and not self._loopback and path != HEALTH
        if guarded and not shows_token(rights, self.reader):
            return _text(401, ADVICE)
        make = self.pages.get(path)
        if make is None:
            return _text(404, f"no page has this path; the pages are {' '.join(sorted(self.pages))}")
        try:
            return make()
        except LayerwiseError as error:
            return _text(500, str(error))
        except Exception as error:
            kind = type(error)
            if (path, kind) not in self._logged:
                self._logged.add((path, kind))
                log.exception("page %s: cannot be made; later errors of this kind are not logged", path)
            return _text(500, f"this page cannot be made ({kind.__name__}); the log of the process says more")

    def _accepts(self, host: str) -> bool:
        name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
        name = plain_name(name)
        if name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name == "localhost" or (not self._loopback and _is_own_name(name))
        return address.is_loopback or not self._loopback


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let a refusal arrive: after a close with unread input, the peer's kernel would discard the answer."""
    if writer.can_write_eof():  # not over TLS
        writer.write_eof()
    async with asyncio.timeout(LINGER_SECONDS):
        while await reader.read(HEAD_BYTES):
            pass


async def _part(writer: asyncio.StreamWriter) -> None:
    """End a connection over TLS while the visitor still has a place: the end awaits the visitor's word."""
    writer.close()
    async with asyncio.timeout(SEND_SECONDS):
        await writer.wait_closed()


def pages_identity(identity: Identity | None, address: str, insecure: bool) -> Identity | None:
    """Return the certificates for pages at an address; None on loopback, or in the clear by --insecure.

    Raises:
        ConfigError: the address is not HOST:PORT.
    """
    return None if insecure or is_loopback(split_address(address)[0]) else identity


def _is_own_name(name: str) -> bool:
    return bool(name) and ("." not in name or name == socket.gethostname().lower())


def _text(status: int, text: str) -> Page:
    return Page(f"{text}\n".encode(), status=status)


def _encode(page: Page, head_only: bool) -> bytes:
    further = {401: CHALLENGE, 405: "Allow: GET, HEAD\r\n"}.get(page.status, "")
    head = (
        f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\nContent-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n{further}{_HEADERS}\r\n"
    )
    return head.encode("latin-1") + (b"" if head_only else page.body)


@contextmanager
def serve_on_thread(site: Site, address: str, option: str) -> Iterator[str]:
    """Serve a site on a thread of its own, and yield the address with the real port.

    Raises:
        RefusedError: the address cannot be listened on.
    """
    loop = asyncio.new_event_loop()
    thread = SupervisedThread(loop.run_forever, "web")
    thread.start()
    try:
        listening = asyncio.run_coroutine_threadsafe(site.start(address, option), loop).result()
        try:
            yield listening
        finally:
            asyncio.run_coroutine_threadsafe(site.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
