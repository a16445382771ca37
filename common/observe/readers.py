"""Reader's token in requests for pages: Bearer for programs; Basic for browsers, which ask for a password."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable

# Asks a browser for the token. The scheme that browsers know is the only one that they heed.
CHALLENGE = 'WWW-Authenticate: Basic realm="layerwise: any user, the reader token as password"\r\n'
ADVICE = (
    "pages beyond this machine need the token in reader.token of the master's state directory: in a browser "
    "as the password of any user, for programs in the header Authorization: Bearer TOKEN"
)


def shows_token(values: Iterable[str], token: str) -> bool:
    """Whether a request shows the reader's token.

    Args:
        values: of the request's headers Authorization.
        token: of the run; empty while no token is known, and then nobody shows it.
    """
    return bool(token) and any(
        hmac.compare_digest(_shown(value).encode(), token.encode()) for value in values
    )


def _shown(value: str) -> str:
    """Return the token in a header Authorization; empty without one."""
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
