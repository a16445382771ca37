"""Files of results: written whole and read back, or not at all; read with a line that says what is wrong."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from common.data.pointers import explain_pointer, is_pointer
from common.errors import ConfigError, RefusedError, from_os_error

LOCK = "lock"


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, bring it to the disk, read it back, and rename it.

    Raises:
        OSError: the file cannot be written, or reads back otherwise; an older file stays as it was.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("w+b") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            _drop_cache(file)
            file.seek(0)
            if file.read() != content:
                raise OSError(errno.EIO, "reads back otherwise than it was written")
        fresh.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_file(path: Path, advice: str) -> bytes:
    """Read a file.

    Args:
        path: of the file.
        advice: last part of the message for a file that is missing or of no use.

    Raises:
        ConfigError: the file is missing, or is a pointer of Git LFS.
        LayerwiseError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: is missing; {advice}") from None
    except OSError as error:
        raise from_os_error(error) from None
    if is_pointer(content):
        raise ConfigError(explain_pointer(path))
    return content


def read_text(path: Path, advice: str) -> str:
    """Read a file of UTF-8 text; arguments and errors as of `read_file`, and ConfigError for other text."""
    try:
        return read_file(path, advice).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ConfigError(f"{path}: is no UTF-8 text ({where}); {advice}") from None


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """Read a file that holds a JSON object; arguments and errors as of `read_text`."""
    text = read_text(path, advice)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: is torn or was changed: holds no JSON object; {advice}")
    return value


def lock_folder(folder: Path, option: str) -> IO[bytes]:
    """Lock a folder against other commands; the lock ends when the returned file closes or the process dies.

    Args:
        folder: exists.
        option: option that gave the folder, for the message.

    Raises:
        RefusedError: another command is using the folder.
    """
    file = (folder / LOCK).open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RefusedError(
            f"{option} {folder}: another command is writing there; wait for its end, or give another folder"
        ) from None
    except OSError as error:
        file.close()
        raise OSError(error.errno, error.strerror, str(folder / LOCK)) from None
    return file


def _drop_cache(file: IO[bytes]) -> None:
    """Have the next read come from the disk, where the system has such a call."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems bring names to the disk by themselves
            raise
    finally:
        os.close(descriptor)
