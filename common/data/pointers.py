"""Pointers of Git LFS: small text files in the place of large files, until those are fetched."""

from __future__ import annotations

import io
import os
import traceback

_POINTER = b"version https://git-lfs.github.com/spec/"


def is_pointer(content: bytes) -> bool:
    """Whether a file of this content is a pointer of Git LFS."""
    return content.startswith(_POINTER)


def explain_pointer(path: object) -> str:
    """Explain a pointer in a file's place, with advice."""
    return f"{path}: is a pointer of Git LFS, not the file itself; get it by `git lfs pull`"


def find_pointer(error: BaseException) -> str:
    """Explain the pointer that a call under way at an error was to read; empty without a pointer."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in list(frame.f_locals.values()):
            path = value.name if isinstance(value, io.IOBase) and hasattr(value, "name") else value
            if isinstance(path, str | os.PathLike) and holds_pointer(path):
                return explain_pointer(os.fspath(path))
    return ""


def holds_pointer(path: str | os.PathLike[str]) -> bool:
    """Whether a pointer of Git LFS is in the place of a file."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return is_pointer(file.read(len(_POINTER)))
    except (OSError, ValueError):
        return False
