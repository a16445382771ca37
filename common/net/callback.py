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
from common.net.listening import open_listener

SECONDS = 3.0
_TOKEN_BYTES = 16
# Upper bound of a token in a request.
MOST_TOKEN_CHARACTERS = 64


class Greeter:
    """Listener on a free port; sends a token on every connection and hangs up.

    Args:
        host: address to listen on, at a free port.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, host: str) -> None:
        self.token = secrets.token_hex(_TOKEN_BYTES)
        self._listening = open_listener(host, 0)
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._greet, name="greeter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone would not wake the thread that accepts.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _greet(self) -> None:
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:  # closed
                return
            with stream, contextlib.suppress(OSError):
                stream.settimeout(SECONDS)
                stream.sendall(self.token.encode())


async def is_greeted(address: str, token: str, seconds: float = SECONDS) -> bool:
    """Whether a `Greeter` with a token answers at HOST:PORT.

    The result tells nothing else, so that strangers learn nothing about third machines.

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
                return await reader.readexactly(len(token.encode())) == token.encode()
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
