"""Proof of a way to a listener: a token, sent on every accepted connection."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import threading
from types import TracebackType
from typing import Self

from common.errors import ConfigError
from common.net.addresses import split_address

SECONDS = 3.0
# Between two looks of a greeter for its end.
_LOOK_SECONDS = 0.1
_TOKEN_BYTES = 16
# Upper bound of a token in a request.
MOST_TOKEN_CHARACTERS = 64


class Greeter:
    """Sends a token on every connection of a listener and hangs up, within the context.

    Args:
        listening: the listener, for any other use after the context.
    """

    def __init__(self, listening: socket.socket) -> None:
        self.token = secrets.token_hex(_TOKEN_BYTES)
        self._listening = listening
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._greet, name="greeter", daemon=True)

    def __enter__(self) -> Self:
        self._listening.settimeout(_LOOK_SECONDS)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._listening.settimeout(None)

    def _greet(self) -> None:
        while not self._ending.is_set():
            try:
                stream, _ = self._listening.accept()
            except TimeoutError:  # nobody came in time
                continue
            except OSError:  # the peer has left again, or there is no room for a connection
                self._ending.wait(_LOOK_SECONDS)
                continue
            with stream, contextlib.suppress(OSError):
                stream.settimeout(SECONDS)
                stream.sendall(self.token.encode())


async def is_greeted(address: str, token: str, seconds: float = SECONDS) -> bool:
    """Whether a `Greeter` with a token answers at HOST:PORT.

    The result tells nothing else, so that strangers learn nothing about third machines. Nor does a token that
    another program's greeting begins with: no more may come than the token.

    Raises:
        ConfigError: the address is malformed, or the token is empty or too long.
    """
    host, port = split_address(address)
    if not 0 < len(token) <= MOST_TOKEN_CHARACTERS:
        raise ConfigError(f"a token has 1 to {MOST_TOKEN_CHARACTERS} characters, not {len(token)}")
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host.strip("[]"), port)
            try:
                came = await reader.readexactly(len(token.encode()))
                return came == token.encode() and await reader.read(1) == b""
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
