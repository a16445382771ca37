"""Credentials of a caller, in the metadata of its calls, and their comparison."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

from common.errors import MalformedError, UnprovenError

# Metadata with the incarnation of the calling slave's lease, in decimal, with the lease's secret, and with a
# token: the right to join, or the operator's.
INCARNATION, SECRET, TOKEN = "layerwise-incarnation", "layerwise-secret", "layerwise-token"
# Characters of a secret: 128 bits in hexadecimal.
SECRET_CHARACTERS = 32
_MOST_DIGITS = 20  # of 64 bits
_LONGEST_SECRET = 1024


@dataclass(frozen=True, slots=True)
class Certificate:
    """Facts of a certificate whose key a peer has.

    Attributes:
        holder: common name; without one the other names, in order.
        uris: alternative names that are URIs, with the roles.
        hosts: alternative names of type DNS.
        ends: Unix time of the end; infinite where a library does not tell.
    """

    holder: str
    uris: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    ends: float = math.inf


@dataclass(frozen=True, slots=True)
class Credentials:
    """Proof of a caller's right, shown once with each call.

    Attributes:
        incarnation: of the caller's lease; 0 for a caller without a lease.
        secret: of the lease.
        token: the right to join, or the operator's.
        certificate: of the connection; None in the clear.
    """

    incarnation: int = 0
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    certificate: Certificate | None = None

    @property
    def holder(self) -> str:
        """Name of the certificate's holder; empty in the clear."""
        return self.certificate.holder if self.certificate else ""

    def metadata(self) -> list[tuple[str, str]]:
        """Encode as metadata of a call."""
        lease = [(INCARNATION, str(self.incarnation)), (SECRET, self.secret)] if self.incarnation else []
        return [*lease, (TOKEN, self.token)] if self.token else lease


NOBODY = Credentials()

# Takes the path of a called method and the caller's credentials; raises LayerwiseError to refuse the caller.
Admit = Callable[[str, Credentials], object]

_PRESENT: ContextVar[Credentials] = ContextVar("caller", default=NOBODY)


def current_caller() -> Credentials:
    """Return the credentials of the call that the present task answers."""
    return _PRESENT.get()


def note_caller(shown: Credentials) -> None:
    """Note the credentials of the call that the present task answers."""
    _PRESENT.set(shown)


def credentials_of(
    metadata: Iterable[tuple[str, str | bytes]], certificate: Certificate | None = None
) -> Credentials:
    """Decode the credentials in the metadata of a call, and add the certificate of its connection.

    Raises:
        MalformedError: a value has another form.
    """
    found = dict(metadata)
    number, secret = found.get(INCARNATION, "0"), found.get(SECRET, "")
    if isinstance(number, bytes) or not (
        number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS
    ):
        raise MalformedError(f"the header {INCARNATION} is no incarnation: {number[:40]!r}")
    token = found.get(TOKEN, "")
    for name, text in ((SECRET, secret), (TOKEN, token)):
        if isinstance(text, bytes) or not text.isascii() or len(text) > _LONGEST_SECRET:
            raise MalformedError(f"the header {name} is no secret")
    return Credentials(int(number), str(secret), str(token), certificate)


def check_same(named: int, shown: int) -> None:
    """Check that a message names the incarnation whose secret its call has shown.

    Raises:
        UnprovenError: the message names another incarnation.
    """
    if named != shown:
        lease = f"incarnation {shown}" if shown else "no lease"
        raise UnprovenError(
            f"a message names incarnation {named}, and the call has shown {lease}; send {INCARNATION} and "
            f"{SECRET} of the lease with the call"
        )


def hash_secret(secret: str) -> str:
    """Return the form in which a secret may be stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_secret(shown: str, stored: str) -> bool:
    """Whether a shown secret is the one of a stored hash, in constant time; no secret has an empty hash."""
    return bool(stored) and hmac.compare_digest(hash_secret(shown), stored)


def prove(secret: str, *words: object) -> str:
    """Return the proof that a sender of some words knows a secret."""
    return hmac.new(secret.encode(), "|".join(map(str, words)).encode(), hashlib.sha256).hexdigest()


def is_proof(shown: str, secret: str, *words: object) -> bool:
    """Whether a shown value is the proof of a secret for some words; an empty secret proves nothing."""
    return bool(secret) and hmac.compare_digest(shown.encode(), prove(secret, *words).encode())
