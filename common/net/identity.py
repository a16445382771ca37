"""Certificates and trust of a process, for both ends of every port; changed files serve new connections."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.credentials import Certificate
from common.errors import ConfigError, LayerwiseError, RefusedError
from common.net.access import Role, role_uri, roles_of
from common.net.http2.handshakes import certificate_of
from common.net.http2.tls import ALPN, Check, Tls

log = logging.getLogger("layerwise.tls")

# Files of a folder of certificates.
CA, CERTIFICATE, KEY = "ca.pem", "certificate.pem", "key.pem"
# DNS name that the certificates of masters alone have: gRPC for Python checks no other kind of name.
MASTER_NAME = "master.layerwise.internal"
_MOST_BYTES = 1 << 20
# Changed files that cannot be used are tried again after so long: a certificate may not be valid yet.
RETRY_SECONDS = 10.0
# OpenSSL's number for a certificate that is not for this end of a connection.
_WRONG_END = 26


@dataclass(frozen=True)
class Files:
    """Files of a certificate, in PEM.

    Attributes:
        ca: certificates of the trusted authorities.
        certificate: own certificate, and those up to the authority's.
        key: private key of the own certificate.
        option: command-line option or section that names the files.
    """

    ca: Path
    certificate: Path
    key: Path
    option: str

    def stamps(self) -> tuple[tuple[int, int, int], ...]:
        """Return numbers that change with the files, their owners and their rights.

        Raises:
            ConfigError: a file is missing.
        """
        return tuple(self._stamp(path) for path in (self.ca, self.certificate, self.key))

    def _stamp(self, path: Path) -> tuple[int, int, int]:
        try:
            found = path.stat()
        except OSError as error:
            raise self.trouble(path, error.strerror or str(error)) from None
        return found.st_ino, found.st_size, found.st_ctime_ns

    def read(self, path: Path) -> bytes:
        """Read a file.

        Raises:
            ConfigError: the file cannot be read, or is no file of a certificate.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise self.trouble(path, error.strerror or str(error)) from None
        if b"-----BEGIN " not in content or len(content) > _MOST_BYTES:
            raise self.trouble(path, "is no file in PEM")
        return content

    def trouble(self, path: Path, what: str) -> ConfigError:
        """Build the error about a file."""
        inner = sorted(each.parent for each in path.parent.glob(f"*/{CERTIFICATE}"))
        advice = (
            f"give one of the folders in {path.parent}, such as {inner[0]}"
            if inner
            else f"give a folder with {CA}, {CERTIFICATE} and {KEY}, as `layerwise certificates` makes them"
        )
        return ConfigError(f"{self.option}: {path}: {what}; {advice}")


@dataclass(frozen=True)
class _Loaded:
    """Content of the files at one moment.

    Attributes:
        stamps: of the files.
        own: facts of the own certificate.
        ca, certificate, key: contents.
        serving: context of ports that speak HTTP/2.
        pages: context of ports that speak HTTP/1.
        calling: context of callers.
    """

    stamps: tuple[tuple[int, int, int], ...]
    own: Certificate
    ca: bytes
    certificate: bytes
    key: bytes
    serving: ssl.SSLContext
    pages: ssl.SSLContext
    calling: ssl.SSLContext


class Identity:
    """Certificate of this process, and the authorities that it trusts. Safe for several threads.

    Every connection asks for both ends' certificates, over TLS 1.2 or later. Files that change are loaded
    before the next connection; where they do not fit each other, the old ones serve on.

    Args:
        files: of the certificate.

    Raises:
        ConfigError: a file cannot be read, or the key is of another certificate.
        RefusedError: the certificate has expired, or is of an authority that is not in `ca`.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._lock = threading.Lock()
        # Files that could not be loaded, when they are looked at again, and the last word about them.
        self._failed: object = None
        self._again = 0.0
        self._complaint = ""
        self._loaded = _load(files)

    @property
    def certificate(self) -> Certificate:
        """Facts of the own certificate."""
        return self._loaded.own

    def check_own_role(self, role: Role, run: str) -> None:
        """Check that the own certificate has a role in a run.

        Raises:
            ConfigError: the certificate does not have the role.
        """
        try:
            check_peer(role, run, self.certificate)
        except RefusedError as error:
            raise ConfigError(f"{self.files.option}: {error}") from None

    def serve(self, check: Check = lambda _: None) -> Tls:
        """Return the TLS of a port; callers show certificates, which `check` may refuse."""
        return Tls(lambda: self._fresh().serving, check)

    def call(self, role: Role, run: str | None = None) -> Tls:
        """Return the TLS of a caller for peers that have a role in a run; None: in any run."""
        return Tls(lambda: self._fresh().calling, partial(check_peer, role, run))

    def pages(self) -> ssl.SSLContext:
        """Return the TLS for the next visitor of pages."""
        return self._fresh().pages

    def generation(self) -> object:
        """Return a value that changes with the files."""
        return self._fresh().stamps

    def contents(self) -> tuple[bytes, bytes, bytes]:
        """Return the authorities, the own key and the own certificate, in PEM, as gRPC takes them."""
        now = self._fresh()
        return now.ca, now.key, now.certificate

    def _fresh(self) -> _Loaded:
        """Load the files if they have changed."""
        with self._lock:
            try:
                stamps, now = self.files.stamps(), time.monotonic()
                if stamps != self._loaded.stamps and (stamps != self._failed or now >= self._again):
                    self._failed, self._again = stamps, now + RETRY_SECONDS
                    self._loaded = _load(self.files)
                    self._complaint = ""
                    log.info("%s: certificates have changed, and serve new connections", self.files.option)
            except LayerwiseError as error:
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    log.warning("changed certificates cannot be used, the old ones serve on: %s", error)
            return self._loaded


def tls_for(identity: Identity | None, role: Role, run: str | None = None) -> Tls | None:
    """Return the TLS of a caller, as of `Identity.call`; None in the clear."""
    return identity.call(role, run) if identity else None


def check_peer(role: Role, run: str | None, certificate: Certificate | None) -> None:
    """Check that a certificate has the names of a role.

    Raises:
        RefusedError: a name is missing.
    """
    if certificate is None:
        raise RefusedError("no certificate was shown; give one by --tls DIR")
    if role not in roles_of(certificate, run):
        lacking = role_uri(role)
    elif role is Role.MASTER and MASTER_NAME not in certificate.hosts:
        lacking = MASTER_NAME
    else:
        return
    raise RefusedError(
        f"the certificate of {certificate.holder} does not have the role {role.value}"
        f"{'' if run is None else f' in runs named {run}'}; see to the address, "
        f"or give a certificate with the name {lacking}"
    )


def find_identity(folder: Path | None, files: tuple[Path, Path, Path] | None = None) -> Identity | None:
    """Load the certificates of --tls, or else of section [security]; None: neither is given.

    Args:
        folder: that --tls names.
        files: of authorities, certificate and key in the configuration.

    Raises:
        ConfigError: a file cannot be read or used.
        RefusedError: the certificate has expired, or is of an unknown authority.
    """
    if folder is not None:
        return Identity(Files(folder / CA, folder / CERTIFICATE, folder / KEY, f"--tls {folder}"))
    return Identity(Files(*files, option="[security]")) if files else None


def _load(files: Files) -> _Loaded:
    stamps = files.stamps()
    contents = files.read(files.ca), files.read(files.certificate), files.read(files.key)
    build = partial(_context, files, contents[0])
    serving, pages = build(ssl.PROTOCOL_TLS_SERVER), build(ssl.PROTOCOL_TLS_SERVER)
    calling = build(ssl.PROTOCOL_TLS_CLIENT)
    for context in (serving, calling):
        # Before any thread uses the context: handshakes read the protocols without a lock.
        context.set_alpn_protocols([ALPN])
    own = _own(files, build)
    if files.stamps() != stamps:
        raise ConfigError(f"{files.option}: the files change at this moment; try again")
    return _Loaded(stamps, own, *contents, serving, pages, calling)


def _context(files: Files, ca: bytes, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Roles stand for the names of hosts.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        # Bundles have names of authorities in other scripts between the certificates.
        context.load_verify_locations(cadata=ca.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise files.trouble(files.ca, "has no certificate of an authority") from None
    try:
        # A password would be asked for at the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise files.trouble(files.key, f"is not the key of {files.certificate}") from None
        raise files.trouble(
            files.key, f"cannot be used with {files.certificate}: the two are no certificate and plain key"
        ) from None
    except (OSError, ValueError) as error:
        raise files.trouble(files.key, str(error)) from None
    return context


def _own(files: Files, build: Callable[[int], ssl.SSLContext]) -> Certificate:
    """Have the certificate shake hands with itself, so that authority, end and names are known.

    Raises:
        RefusedError: no peer could trust the certificate.
    """
    trusting, asking = build(ssl.PROTOCOL_TLS_CLIENT), build(ssl.PROTOCOL_TLS_SERVER)
    trusting.verify_mode = ssl.CERT_NONE
    found: Certificate | None = None
    try:
        try:
            found = certificate_of(_shake_hands(trusting, asking)[1])
        except ssl.SSLCertVerificationError as error:
            if error.verify_code != _WRONG_END:
                raise
            # A master's may be for the serving end alone.
            trusting, asking = build(ssl.PROTOCOL_TLS_CLIENT), build(ssl.PROTOCOL_TLS_SERVER)
            asking.verify_mode = ssl.CERT_NONE
            found = certificate_of(_shake_hands(trusting, asking)[0])
    except ssl.SSLCertVerificationError as error:
        raise RefusedError(
            f"{files.option}: {files.certificate} cannot be trusted by {files.ca}: {error.verify_message}; "
            "have the authority make a new certificate (`layerwise certificates DIR --renew`)"
        ) from None
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise RefusedError(
            f"{files.option}: {files.certificate} cannot be used for TLS: {reason}; have the authority "
            "make one with a key of another kind, such as prime256v1"
        ) from None
    assert found is not None
    return found


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory; returns both ends."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling, serving = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    left = [calling, serving]
    for _ in range(8):
        for end in list(left):
            try:
                end.do_handshake()
                left.remove(end)
            except ssl.SSLWantReadError:
                continue
    return calling, serving
