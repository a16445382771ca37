"""Secrets of a run in the state directory, in files that their owner alone can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from common.errors import ConfigError, RunFailedError
from common.net.tokens import JOIN_TOKEN, OPERATOR_TOKEN, READER_TOKEN, read_token
from master.disk.state import StateDirectory
from master.keyring import Keyring

KEYRING = "keyring"
_KEY_BYTES, _TOKEN_BYTES = 32, 16


def load_keyring(state: StateDirectory) -> Keyring:
    """Return the keyring of a run, whose key is made by the run's first master.

    Raises:
        NoRoomError: the file cannot be written.
    """
    return Keyring(_secret(state, KEYRING, _KEY_BYTES).encode())


def load_tokens(state: StateDirectory, join: Path | None) -> tuple[str, str]:
    """Return the operator's token and the join token of a run, made by the run's first master.

    Args:
        state: directory of the run.
        join: file of the join token, made if missing; None: in the state directory.

    Raises:
        ConfigError: the file `join` cannot be read or written.
        NoRoomError: a file of the state directory cannot be written.
    """
    operator = _secret(state, OPERATOR_TOKEN, _TOKEN_BYTES)
    if join is None:
        return operator, _secret(state, JOIN_TOKEN, _TOKEN_BYTES)
    return operator, _shared_token(join, "--join-token-file", 0o600)


def load_reader(state: StateDirectory, file: Path | None) -> str:
    """Return the reader's token of a run, made by the run's first master.

    Args:
        state: directory of the run.
        file: of the token, made if missing, also for the group of its owner; None: in the state directory.

    Raises:
        ConfigError: the file cannot be read or written.
        NoRoomError: a file of the state directory cannot be written.
    """
    if file is None:
        return _secret(state, READER_TOKEN, _TOKEN_BYTES)
    # Prometheus reads the file, as another user.
    return _shared_token(file, "--reader-token-file", 0o640)


def _shared_token(path: Path, option: str, mode: int) -> str:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        return read_token(path, option)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}; give a file in a folder of yours") from None
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_TOKEN_BYTES))
    return read_token(path, option)


def _secret(state: StateDirectory, name: str, nbytes: int) -> str:
    """Read a secret, or make one where the file is missing or damaged: leases that stand do not need it."""
    text = ""
    with contextlib.suppress(RunFailedError):
        text = (state.read(name) or "").strip()
    if len(text) != 2 * nbytes:
        text = secrets.token_hex(nbytes)
        state.write(name, text, private=True)
    return text
