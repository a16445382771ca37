"""Facts and failures of TLS handshakes, in the project's terms."""

from __future__ import annotations

import datetime
import math
import ssl
from collections.abc import Iterator
from typing import Any

from common.credentials import Certificate
from common.errors import RefusedError

# OpenSSL's reasons for an answer, or a greeting, in the clear.
_CLEAR = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG")
# In DER: the tag of a certificate's version, and of a time with two digits for the year, from 1950 to 2049.
_VERSION, _UTC_TIME, _CENTURY = 0xA0, 0x17, 2050
# Words in the alerts by which a peer refuses a certificate.
_CERTIFICATE_ALERTS = ("certificate", "unknown ca", "access denied")
NO_TLS = "the peer speaks no TLS; start it with --tls DIR, or leave out --tls here"
TLS_ALONE = "speaks TLS alone; give the folder of a certificate by --tls DIR"


def certificate_of(stream: ssl.SSLSocket | ssl.SSLObject) -> Certificate | None:
    """Return the facts of the peer's certificate; None for a peer that has shown none."""
    found: Any = stream.getpeercert()
    if not found:
        return None
    names = found.get("subjectAltName", ())
    common = [value for part in found.get("subject", ()) for key, value in part if key == "commonName"]
    return name_certificate(
        common[0] if common else "",
        [value for kind, value in names if kind == "URI"],
        [value for kind, value in names if kind == "DNS"],
        ssl.cert_time_to_seconds(found["notAfter"]),
    )


def name_certificate(common: str, uris: list[str], hosts: list[str], ends: float = math.inf) -> Certificate:
    """Return the facts of a certificate; the holder is named as renewal keeps it.

    Args:
        common: common name; empty without one, and all other names stand for it.
        uris: alternative names of type URI.
        hosts: alternative names of type DNS.
        ends: Unix time of the end.
    """
    return Certificate(common or ",".join(sorted([*hosts, *uris])), tuple(uris), tuple(hosts), ends)


def end_of(encoded: bytes) -> float:
    """Return the Unix time of the end of a certificate in DER, which has been verified."""
    (_, certificate), *_ = _elements(encoded)
    (_, signed), *_ = _elements(certificate)
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    # After number, algorithm and issuer: begin and end.
    _, (tag, text) = _elements(fields[3])
    years = "%y" if tag == _UTC_TIME else "%Y"
    ends = datetime.datetime.strptime(text.decode(), f"{years}%m%d%H%M%SZ").replace(tzinfo=datetime.UTC)
    if tag == _UTC_TIME and ends.year >= _CENTURY:
        ends = ends.replace(year=ends.year - 100)
    return ends.timestamp()


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element of a sequence in DER."""
    at = 0
    while at < len(content):
        tag, length, at = content[at], content[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(content[at : at + size], "big"), at + size
        yield tag, content[at : at + length]
        at += length


def failure(error: OSError) -> RefusedError | None:
    """Return the refusal behind a failed handshake; None where the connection just broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return RefusedError(
            f"the certificate of a peer is not trusted: {error.verify_message}; give both ends certificates "
            "of one authority that have not expired"
        )
    if is_clear(error):
        return RefusedError(NO_TLS)
    if _reason(error) == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return RefusedError("a peer has shown no certificate; give it the folder of one by --tls DIR")
    if refused := distrust(error):
        return refused
    alert = _alert(error)
    return RefusedError(f"a peer does not agree on TLS ({alert})") if alert else None


def is_clear(error: OSError) -> bool:
    """Whether a handshake has failed because the peer speaks in the clear."""
    return _reason(error) in _CLEAR


def distrust(error: OSError) -> RefusedError | None:
    """Return the refusal behind an alert about the certificate of this end; None for any other error."""
    alert = _alert(error)
    if not any(word in alert for word in _CERTIFICATE_ALERTS):
        return None
    return RefusedError(
        f"a peer does not trust the certificate of this end ({alert}); give both ends certificates of "
        "one authority that have not expired"
    )


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or ""


def _alert(error: OSError) -> str:
    """Return the alert that a peer has sent, in words; empty without one."""
    return _reason(error).partition("ALERT_")[2].replace("_", " ").lower()
