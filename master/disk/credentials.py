"""Secrets of a run in the state directory, in files that their owner alone can read."""

from __future__ import annotations

import contextlib
import secrets

from common.errors import RunFailedError
from master.disk.state import StateDirectory
from master.keyring import Keyring

KEYRING = "keyring"
_KEY_BYTES = 32


def load_keyring(state: StateDirectory) -> Keyring:
    """Return the keyring of a run, whose key is made by the run's first master.

    Raises:
        NoRoomError: the file cannot be written.
    """
    return Keyring(_secret(state, KEYRING, _KEY_BYTES).encode())


def _secret(state: StateDirectory, name: str, nbytes: int) -> str:
    """Read a secret, or make one where the file is missing or damaged: leases that stand do not need it."""
    text = ""
    with contextlib.suppress(RunFailedError):
        text = (state.read(name) or "").strip()
    if len(text) != 2 * nbytes:
        text = secrets.token_hex(nbytes)
        state.write(name, text, private=True)
    return text
