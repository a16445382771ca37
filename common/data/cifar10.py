"""CIFAR-10 in its official binary version: records of a label and 3 x 32 x 32 bytes; pickles are not read."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np

from common.errors import ConfigError

FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
FILES = (*TRAIN, TEST)
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_LARGEST = 64 * 1024 * 1024


def missing(folder: Path) -> list[str]:
    """List the files that a folder lacks: none if it holds the archive, else the missing loose files."""
    if (folder / ARCHIVE).is_file():
        return []
    return [name for name in FILES if not (_loose(folder) / name).is_file()]


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read training images (N, 3, 32, 32) uint8 and labels (N,) int64, then the test set's.

    Raises:
        ConfigError: a file cannot be read, is cut short or has another format.
    """
    loose = _loose(folder)
    if all((loose / name).is_file() for name in FILES):
        parts = [_records(_content(loose / name), str(loose / name)) for name in FILES]
    else:
        archive = folder / ARCHIVE
        members = _members(archive)
        parts = [_records(members[name], f"{archive}: {name}") for name in FILES]
    train = np.concatenate(parts[:-1])
    return (*_examples(train), *_examples(parts[-1]))


def _loose(folder: Path) -> Path:
    return folder if any((folder / name).is_file() for name in FILES) else folder / FOLDER


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror or error}; see to its permissions"
        ) from None


def _members(archive: Path) -> dict[str, bytes]:
    """Read the wanted files of the archive; nothing is unpacked to disk, so no member's name can escape."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                content = tar.extractfile(member) if name in FILES and member.isfile() else None
                if content is not None and member.size <= _LARGEST:
                    contents[name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ConfigError(f"{archive}: cannot be read to its end ({error}); get the file again") from None
    lacking = [name for name in FILES if name not in contents]
    if lacking:
        raise ConfigError(f"{archive}: holds no {', '.join(lacking)}; get CIFAR-10's binary version")
    return contents


def _records(raw: bytes, source: str) -> np.ndarray:
    if not raw or len(raw) % _RECORD:
        raise ConfigError(
            f"{source}: {len(raw)} bytes are not a whole number of {_RECORD}-byte records; get the file again"
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise ConfigError(f"{source}: holds the label {records[:, 0].max()}, above 9; get the file again")
    return records


def _examples(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, *_SHAPE)
    return images, records[:, 0].astype(np.int64)
