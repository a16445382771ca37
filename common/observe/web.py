"""What a process shows of itself over HTTP: a few known paths, to be read and nothing else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.errors import LayerwiseError, RefusedError
from common.net.addresses import is_loopback, split_address

HEAD_BYTES = 8 << 10
HEAD_SECONDS = 5.0
SEND_SECONDS = 20.0
LINGER_SECONDS = 0.5
# Who asks for more at once waits for its turn in the kernel's queue, or is turned away there.
CONNECTIONS = 32

# Nothing from elsewhere is loaded, and nobody may put the page into a frame of theirs.
_HEADERS = (
    "Cache-Control: no-store\r\n"
    "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'; base-uri 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "Connection: close\r\n"
)
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 421: "Misdirected Request",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """An answer."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Pages = Mapping[str, Callable[[], Page]]


@dataclass
class Site:
    """A server of pages on an event loop; each page is made anew when it is asked for.

    A browser can be brought to ask a server of its own machine under a name of an attacker's. So only
    requests are answered whose Host is an address, this machine's name or, beyond loopback, a name without a
    dot.
    """

    pages: Pages
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, address: str, option: str) -> str:
        """Listen; returns the address with the port that was taken.

        Args:
            address: HOST:PORT; port 0 takes a free one.
            option: what the address was given by, for the error.

        Raises:
            RefusedError: it cannot be listened on.
        """
        host, port = split_address(address)
        self._loopback = is_loopback(host)
        try:
            self._server = await asyncio.start_server(
                self._accepted, host.strip("[]"), port, limit=HEAD_BYTES, backlog=CONNECTIONS
            )
        except OSError as error:
            raise RefusedError(
                f"{option} {address}: cannot be listened on: {error.strerror or error}; choose another port, "
                "or stop the program that has it"
            ) from None
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Listen no more, and hang up."""
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            busy = len(self._open) > CONNECTIONS
            page, head = (_said(503, "too many at once"), False) if busy else await self._answer(reader)
            writer.write(_encoded(page, head))
            async with asyncio.timeout(SEND_SECONDS):
                await writer.drain()
            if page.status != 200:
                await _heard(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Page, bool]:
        """The page that is asked for, and whether only its head is."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.LimitOverrunError:
            return _said(400, "the request is too long"), False
        line, *headers = head.split("\r\n")
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        hosts = [
            value.strip() for name, _, value in (h.partition(":") for h in headers) if name.lower() == "host"
        ]
        if not rest.rpartition(" ")[2].startswith("HTTP/1."):
            return _said(400, "this is no HTTP/1 request"), False
        return self._page(method, path, hosts), method == "HEAD"

    def _page(self, method: str, path: str, hosts: list[str]) -> Page:
        if len(hosts) != 1 or not self._known(hosts[0]):
            named = hosts[0] if hosts else ""
            return _said(421, f'no server here is called "{named}"; ask for it by its address')
        if method not in ("GET", "HEAD"):
            return _said(405, "this can only be read: GET or HEAD")
        make = self.pages.get(path)
        if make is None:
            return _said(404, f"there is no such page; there are {' '.join(sorted(self.pages))}")
        try:
            return make()
        except LayerwiseError as error:
            return _said(500, str(error))

    def _known(self, host: str) -> bool:
        name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
        name = name.lower()
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name == "localhost" or (not self._loopback and _own(name))
        return address.is_loopback or not self._loopback


async def _heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let a refusal arrive: to hang up on what was not read yet would have the kernel discard it there."""
    writer.write_eof()
    async with asyncio.timeout(LINGER_SECONDS):
        while await reader.read(HEAD_BYTES):
            pass


def _own(name: str) -> bool:
    return bool(name) and ("." not in name or name == socket.gethostname().lower())


def _said(status: int, text: str) -> Page:
    return Page(f"{text}\n".encode(), status=status)


def _encoded(page: Page, head_only: bool) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if page.status == 405 else ""
    head = (
        f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\nContent-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n{allow}{_HEADERS}\r\n"
    )
    return head.encode("latin-1") + (b"" if head_only else page.body)


@contextmanager
def serving(site: Site, address: str, option: str) -> Iterator[str]:
    """Serve a site on a thread of its own; gives the address with the port that was taken.

    Raises:
        RefusedError: it cannot be listened on.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="web", daemon=True)
    thread.start()
    try:
        told = asyncio.run_coroutine_threadsafe(site.start(address, option), loop).result()
        try:
            yield told
        finally:
            asyncio.run_coroutine_threadsafe(site.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
