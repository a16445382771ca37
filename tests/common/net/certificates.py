"""Certificates for tests, signed by themselves, from the `openssl` command."""

from __future__ import annotations

import functools
import shutil
import socket
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.net.http2.tls import Tls


@dataclass(frozen=True)
class Contexts:
    """TLS of a server and of its clients; None for connections in the clear."""

    server: Tls | None = None
    client: Tls | None = None
    authority: bytes = b""

    def dial(self, port: int, seconds: float) -> socket.socket:
        """Connect to a server on 127.0.0.1, and shake hands over TLS."""
        stream = socket.create_connection(("127.0.0.1", port), seconds)
        if self.client is None:
            return stream
        return self.client.context().wrap_socket(stream, server_hostname="127.0.0.1")


@functools.cache
def contexts() -> Contexts:
    """Make a certificate for 127.0.0.1 and ::1, and contexts that serve it and trust it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the command openssl is missing")
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        subprocess.run(
            [
                openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
                "-subj", "/CN=layerwise-test", "-addext", "subjectAltName=IP:127.0.0.1,IP:::1",
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key)
        server.set_alpn_protocols(["h2"])
        client = ssl.create_default_context(cafile=str(certificate))
        client.set_alpn_protocols(["h2"])
        return Contexts(Tls(lambda: server), Tls(lambda: client), certificate.read_bytes())


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> Contexts:
    """Connections in the clear, and over TLS."""
    return contexts() if request.param == "tls" else Contexts()
