"""Secrets of a run's leases and pairs, made of one key that only the master has. No I/O, no randomness."""

from __future__ import annotations

import hashlib
import hmac

from common.credentials import SECRET_CHARACTERS


class Keyring:
    """Secrets by incarnation.

    A secret is a keyed hash: nobody without the key can guess it, a slave whose Join is answered twice gets
    the same secret, and a master that starts again gives pairs the secrets that their slaves have.

    Args:
        key: random bytes, kept with the run.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def lease(self, incarnation: int, key: str) -> str:
        """Return the secret of a lease, for the process that joined with a key of its own."""
        return self._make("lease", incarnation, key)

    def pair(self, one: int, other: int) -> str:
        """Return the secret of the pair of two incarnations."""
        return self._make("pair", *sorted((one, other)))

    def _make(self, *words: object) -> str:
        text = "|".join(map(str, words)).encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()[:SECRET_CHARACTERS]
