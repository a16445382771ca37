"""IDX files, the format of MNIST and related sets: a big-endian header, then bytes; gzipped or plain."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from common.errors import ConfigError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_SIDE = 28
_UNSIGNED_BYTE = 0x08
_GZIP = b"\x1f\x8b"


def missing(folder: Path) -> list[str]:
    """List the files that a folder lacks, by published name."""
    return [f"{name}.gz" for name in FILES if _find(folder, name) is None]


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read training images (N, 1, 28, 28) uint8 and labels (N,) int64, then the test set's.

    Raises:
        ConfigError: a file cannot be read, is cut short or has another format.
    """
    train_images, train_labels, test_images, test_labels = FILES
    return (*_pair(folder, train_images, train_labels), *_pair(folder, test_images, test_labels))


def read_file(path: Path, dimensions: int) -> np.ndarray:
    """Read the bytes of a file as a read-only array of `dimensions` dimensions.

    Raises:
        ConfigError: the file cannot be read, is cut short, or is not an IDX file of that many dimensions.
    """
    raw = _content(path)
    magic, start = bytes((0, 0, _UNSIGNED_BYTE, dimensions)), 4 + 4 * dimensions
    if raw[:4] != magic or len(raw) < start:
        raise ConfigError(
            f"{path}: begins with {raw[:4].hex() or 'nothing'} and has {len(raw)} bytes; an IDX file "
            f"of bytes in {dimensions} dimensions begins with {magic.hex()}; get the file again"
        )
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    if math.prod(shape) != len(raw) - start:
        raise ConfigError(
            f"{path}: its header announces {' x '.join(map(str, shape))} bytes, but {len(raw) - start} "
            "follow; get the file again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")
    for candidate in (name, dotted, f"{name}.gz", f"{dotted}.gz"):
        if (folder / candidate).is_file():
            return folder / candidate
    return None


def _pair(folder: Path, images_name: str, labels_name: str) -> tuple[np.ndarray, np.ndarray]:
    images_path, labels_path = _find(folder, images_name), _find(folder, labels_name)
    assert images_path is not None
    assert labels_path is not None
    images, labels = read_file(images_path, 3), read_file(labels_path, 1)
    if len(images) == 0 or images.shape[1:] != (_SIDE, _SIDE):
        raise ConfigError(
            f"{images_path}: holds {' x '.join(map(str, images.shape))} pixels, not images of "
            f"{_SIDE} x {_SIDE}; get the file again"
        )
    if len(labels) != len(images) or labels.max() > 9:
        raise ConfigError(
            f"{labels_path}: its {len(labels)} labels up to {labels.max(initial=0)} do not match the "
            f"{len(images)} images of classes 0 to 9 in {images_path.name}; get both files again"
        )
    return images[:, None], labels.astype(np.int64)


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: is cut short or corrupt ({error}); get the file again") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror or error}; see to its permissions"
        ) from None
