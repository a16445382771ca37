"""Files with the tokens of a run: to join, to change the run as its operator, and to read its pages.

A master keeps them in its state directory, which its user alone can read, and notes the directory in the
user's own folder: on the same machine the user's commands find the tokens by the master's port.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from common.credentials import NOBODY, Credentials
from common.errors import ConfigError
from common.net.addresses import is_loopback, is_unspecified, split_address

# Files of a state directory.
JOIN_TOKEN, OPERATOR_TOKEN, READER_TOKEN = "join.token", "operator.token", "reader.token"
_MOST_BYTES = 1024


def read_token(path: Path, option: str) -> str:
    """Read a token from the file that an option names.

    Raises:
        ConfigError: the file cannot be read, or has no token.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode("ascii").strip()
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: {error.strerror}; give a copy of the token in the master's state directory"
        ) from None
    except UnicodeDecodeError:
        text = ""
    if not text or len(text) > _MOST_BYTES or len(text.split()) != 1:
        raise ConfigError(f"{option} {path}: has no token; copy the file from the master's state directory")
    return text


def find_joiner(master: str, path: Path | None = None) -> Credentials:
    """Return credentials with a master's join token: from a file, or of this user's master on this machine.

    Raises:
        ConfigError: the file that --join-token-file names cannot be used.
    """
    return _find(master, JOIN_TOKEN, path, "--join-token-file")


def find_operator(master: str, path: Path | None = None) -> Credentials:
    """Return credentials with a master's operator's token, found as the join token.

    Raises:
        ConfigError: the file that --token-file names cannot be used.
    """
    return _find(master, OPERATOR_TOKEN, path, "--token-file")


def _find(master: str, name: str, path: Path | None, option: str) -> Credentials:
    path = path or _token_here(master, name)
    return Credentials(token=read_token(path, option)) if path else NOBODY


def _token_here(master: str, name: str) -> Path | None:
    """Find the token of a master of this user on this machine."""
    host, port = split_address(master)
    if not (is_loopback(host) or is_unspecified(host)):
        return None
    with contextlib.suppress(OSError, ValueError):
        state = Path((_masters() / str(port)).read_text(encoding="utf-8"))
        path = state / name
        if path.stat().st_uid == os.geteuid() and _is_in_use(state):
            return path
    return None


def _is_in_use(state: Path) -> bool:
    """Whether a master holds a state directory: another program may have the port of one that has ended."""
    with (state / "lock").open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def note_master(port: int, state: Path) -> None:
    """Note the state directory of this user's master at a port; without a folder for it nothing is noted."""
    with contextlib.suppress(OSError):
        folder = _masters()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / str(port)).write_text(str(state.absolute()), encoding="utf-8")


def forget_master(port: int, state: Path) -> None:
    """Forget the state directory of a master that ends, unless another has the port."""
    with contextlib.suppress(OSError):
        noted = _masters() / str(port)
        if noted.read_text(encoding="utf-8") == str(state.absolute()):
            noted.unlink()


def _masters() -> Path:
    """Folder of notes, a file for each port.

    Raises:
        OSError: the user has no folder.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification says that a relative path is ignored.
    root = base if os.path.isabs(base) else os.path.expanduser("~/.local/state")
    if not os.path.isabs(root):
        raise OSError("the user has no home")
    return Path(root) / "layerwise" / "masters"
