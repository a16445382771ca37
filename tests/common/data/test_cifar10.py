from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from common.config.data import DataConfig
from common.data import cifar10, datasets
from common.errors import ConfigError
from common.signals.forms import PLAIN
from tests.common.data.whole import whole


def records(count: int, seed: int) -> np.ndarray:
    """(count, 3073) bytes: the label, then the pixels."""
    table = np.random.default_rng(seed).integers(0, 256, (count, 3073)).astype(np.uint8)
    table[:, 0] %= 10
    return table


FILES = {name: records(2 + number, number) for number, name in enumerate(cifar10.FILES)}


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def check(folder: Path) -> None:
    loaded = datasets.load(DataConfig(dataset="cifar10", path=str(folder)))
    train, test = np.concatenate([FILES[name] for name in cifar10.TRAIN]), FILES[cifar10.TEST]
    for x, y, written in (
        (whole(loaded).train_x, whole(loaded).train_y, train),
        (whole(loaded).test_x, whole(loaded).test_y, test),
    ):
        np.testing.assert_array_equal(x, written[:, 1:].reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(y, written[:, 0])
        assert (x.dtype.name, y.dtype.name) == ("uint8", "int64")
    assert loaded.inputs.only.shape == (3, 32, 32)
    assert (len(loaded.scalings[PLAIN].mean), len(loaded.scalings[PLAIN].std)) == (3, 3)


@pytest.mark.parametrize("below", [".", "cifar-10-batches-bin"])
def test_loose_files_are_read_in_order_from_the_folder_or_its_usual_subfolder(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    for name, table in FILES.items():
        (tmp_path / below / name).write_bytes(table.tobytes())
    check(tmp_path)


def test_the_archive_is_read_in_memory_and_nothing_of_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    wanted = {f"cifar-10-batches-bin/{name}": table.tobytes() for name, table in FILES.items()}
    write_archive(folder / cifar10.ARCHIVE, {"../outside.bin": b"x", **wanted, "readme.html": b"<p>"})
    check(folder)
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [Path("folder", cifar10.ARCHIVE)]


@pytest.mark.parametrize(
    "content", [b"", records(2, 0).tobytes()[:-1], b"\x0a" + records(1, 0).tobytes()[1:], b"<html>404</html>"]
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    for name, table in FILES.items():
        (tmp_path / name).write_bytes(table.tobytes())
    (tmp_path / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path / 'data_batch_3.bin'))}: "):
        cifar10.read(tmp_path)


def test_an_archive_that_is_cut_or_lacks_a_file_or_is_none_is_named(tmp_path: Path) -> None:
    archive = tmp_path / cifar10.ARCHIVE
    named = re.escape(str(archive))
    write_archive(archive, {name: table.tobytes() for name, table in FILES.items()})
    archive.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(ConfigError, match=f"^{named}: cannot be read to its end"):
        cifar10.read(tmp_path)
    archive.write_bytes(b"<html>404</html>")
    with pytest.raises(ConfigError, match=f"^{named}: cannot be read to its end"):
        cifar10.read(tmp_path)
    write_archive(archive, {cifar10.TEST: records(1, 0).tobytes()})
    with pytest.raises(ConfigError, match=f"^{named}: holds no data_batch_1.bin, .*data_batch_5.bin; "):
        cifar10.read(tmp_path)


def test_a_link_in_the_archive_is_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / cifar10.ARCHIVE, "w:gz") as tar:
        member = tarfile.TarInfo(cifar10.TEST)
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(member)
    with pytest.raises(ConfigError, match=r"holds no .*test_batch\.bin; "):
        cifar10.read(tmp_path)
