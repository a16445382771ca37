from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config.data import DataConfig
from common.data import datasets, idx
from common.errors import ConfigError
from tests.common.data.whole import whole


def encoded(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small() -> list[np.ndarray]:
    """Five training and three test examples, in the order of `idx.FILES`."""
    generator = np.random.default_rng(7)
    return [
        array
        for count in (5, 3)
        for array in (
            generator.integers(0, 256, (count, 28, 28)).astype(np.uint8),
            generator.integers(0, 10, count).astype(np.uint8),
        )
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small MNIST, gzipped under its published names."""
    for name, array in zip(idx.FILES, small(), strict=True):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(encoded(array)))
    return tmp_path


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-idx", ".idx"])
def test_files_are_read_under_every_name_they_go_by(
    tmp_path: Path, dataset: str, ending: str, mark: str
) -> None:
    for name, array in zip(idx.FILES, small(), strict=True):
        content = gzip.compress(encoded(array)) if ending else encoded(array)
        (tmp_path / (name.replace("-idx", mark) + ending)).write_bytes(content)
    loaded = datasets.load(DataConfig(dataset=dataset, path=str(tmp_path)))
    found = (
        whole(loaded).train_x[:, 0],
        whole(loaded).train_y,
        whole(loaded).test_x[:, 0],
        whole(loaded).test_y,
    )
    for ours, written in zip(found, small(), strict=True):
        np.testing.assert_array_equal(ours, written)
    assert loaded.inputs.only.shape == (1, 28, 28)
    assert (whole(loaded).train_x.dtype.name, whole(loaded).train_y.dtype.name) == ("uint8", "int64")


def flipped(raw: bytes) -> bytes:
    """With some bytes within the compressed data inverted."""
    return raw[:400] + bytes(255 - byte for byte in raw[400:420]) + raw[420:]


def headed(header: bytes) -> Callable[[bytes], bytes]:
    """With other bytes at the beginning of what is compressed."""
    return lambda raw: gzip.compress(header + gzip.decompress(raw)[len(header) :])


def shaped(*shape: int) -> Callable[[bytes], bytes]:
    """With another shape in the header."""
    return headed(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape))


@pytest.mark.parametrize(
    ("damaged", "complaint"),
    [
        (lambda raw: raw[:-9], "is cut short or corrupt"),
        (lambda raw: raw[:3], "is cut short or corrupt"),
        (flipped, "is cut short or corrupt"),
        (lambda raw: b"", "begins with nothing"),
        (lambda raw: b"<html>404</html>", "begins with 3c68746d"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:10]), "begins with 00000803 and has 10 bytes"),
        (
            lambda raw: gzip.compress(gzip.decompress(raw)[:-9]),
            "announces 5 x 28 x 28 bytes, but 3911 follow",
        ),
        (
            lambda raw: gzip.compress(gzip.decompress(raw) + b"\0"),
            "announces 5 x 28 x 28 bytes, but 3921 follow",
        ),
        (headed(b"\0\0\x0d\x03"), "begins with 00000d03"),
        (headed(b"\0\0\x08\x01"), "begins with 00000801"),
        (shaped(2**32 - 1, 2**32 - 1, 2**32 - 1), "announces 4294967295 x 4294967295 x 4294967295 bytes"),
        (shaped(20, 14, 14), "holds 20 x 14 x 14 pixels"),
        (lambda raw: gzip.compress(encoded(np.zeros((0, 28, 28), np.uint8))), "holds 0 x 28 x 28 pixels"),
    ],
)
@pytest.mark.parametrize("name", [idx.FILES[0], idx.FILES[2]])
def test_a_damaged_file_is_named_with_what_is_wrong(
    folder: Path, name: str, damaged: Callable[[bytes], bytes], complaint: str
) -> None:
    file = folder / f"{name}.gz"
    file.write_bytes(damaged((folder / f"{idx.FILES[0]}.gz").read_bytes()))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: .*{re.escape(complaint)}"):
        idx.read(folder)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path))}: cannot be read: "):
        idx.read_file(tmp_path, 3)


@pytest.mark.parametrize("labels", [[1, 2, 3, 4], [1, 2, 3, 4, 10], []])
def test_labels_that_do_not_go_with_the_images_are_named(folder: Path, labels: list[int]) -> None:
    file = folder / f"{idx.FILES[1]}.gz"
    file.write_bytes(gzip.compress(encoded(np.array(labels, np.uint8))))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: its {len(labels)} labels "):
        idx.read(folder)


def test_exactly_what_a_folder_lacks_is_missing(folder: Path) -> None:
    assert idx.missing(folder) == []
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    assert idx.missing(folder) == ["train-labels-idx1-ubyte.gz"]
