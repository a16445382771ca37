"""Look at a port that gRPC cannot speak to: gRPC's own texts do not say whether TLS is the reason."""

from __future__ import annotations

import socket
import ssl

from common.errors import LayerwiseError, RefusedError
from common.net.access import Role
from common.net.addresses import split_address
from common.net.http2.handshakes import NO_TLS, TLS_ALONE, certificate_of, failure
from common.net.identity import Identity

CONNECT_SECONDS = 3.0
# A server that does not trust a certificate says so, or hangs up, within so long of the handshake.
VERDICT_SECONDS = 1.0


def find_refusal(address: str, identity: Identity | None) -> LayerwiseError | None:
    """Return why a master's port refuses this end, or this end the port; None where TLS is not the reason.

    Args:
        address: HOST:PORT.
        identity: certificates of this end; None: in the clear.

    Raises:
        ConfigError: the address is not HOST:PORT.
    """
    found = _find_by_handshake(address, identity) if identity else _find_in_the_clear(address)
    if found and identity:
        # A master that ends just then hangs up as one that refuses does; the next connection finds nobody.
        found = _find_by_handshake(address, identity)
    return RefusedError(f"{address}: {found}") if found else None


def _find_in_the_clear(address: str) -> LayerwiseError | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _connect(address) as stream, context.wrap_socket(stream):
            pass
    except ssl.SSLError as error:
        # An alert is TLS, too.
        found = failure(error)
        if found is None or str(found) == NO_TLS:
            return None
    except OSError:
        return None
    return RefusedError(TLS_ALONE)


def _find_by_handshake(address: str, identity: Identity) -> LayerwiseError | None:
    tls = identity.call(Role.MASTER)
    try:
        with _connect(address) as stream, tls.context().wrap_socket(stream) as talking:
            tls.check(certificate_of(talking))
            talking.settimeout(VERDICT_SECONDS)
            if not talking.recv(1):
                return RefusedError(
                    "ended the connection once it had the certificate of "
                    f"{identity.certificate.holder}; give both ends certificates of one authority that have "
                    "not expired"
                )
    except RefusedError as error:
        return error
    except OSError as error:
        return failure(error)
    return None


def _connect(address: str) -> socket.socket:
    host, port = split_address(address)
    return socket.create_connection((host.strip("[]"), port), CONNECT_SECONDS)
