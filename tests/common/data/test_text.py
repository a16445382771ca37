"""Data sets `text` and `tokens`: parts, windows, vocabularies, refusals."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config import files
from common.config.data import TOKENS, DataConfig
from common.data import batches, datasets
from common.data.batches import Batches
from common.data.sets import text as text_set
from common.errors import ConfigError
from common.signals.forms import TensorForm
from tests.common.data.whole import tensor, whole

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
SHAKESPEARE = SHARED / "text" / "tiny-shakespeare.txt"
PENN = SHARED / "ptb" / "ptb.zip"


def load(path: Path, **options: Any) -> datasets.Dataset:
    return datasets.load(DataConfig(dataset="text", path=str(path), **options))


def refusal(path: Path, name: str = "text", **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        datasets.load(DataConfig(dataset=name, path=str(path), **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(folder: Path, **texts: str) -> Path:
    for name, content in texts.items():
        (folder / f"{name}.txt").write_text(content, encoding="utf-8")
    return folder


def test_targets_are_inputs_one_token_later(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, train="abcdefgh", test="hgfedcba"), context=3)
    read = whole(dataset)
    assert [bytes(x) for x in read.train_x] == [b"abc", b"bcd", b"cde", b"def", b"efg"]
    assert [bytes(y.tolist()) for y in read.train_y] == [b"bcd", b"cde", b"def", b"efg", b"fgh"]
    assert [bytes(x) for x in read.test_x] == [b"hgf", b"edc"]
    assert [bytes(y.tolist()) for y in read.test_y] == [b"gfe", b"dcb"]
    assert dataset.inputs.only == TensorForm((3,), "int64", 256)
    assert dataset.classes == 256


def test_batches_are_windows_side_by_side_from_an_offset_of_each_epoch(tmp_path: Path) -> None:
    numbers = "".join(map(chr, range(100)))
    dataset = load(write(tmp_path, train=numbers, test=numbers), context=8)
    made = Batches(dataset, 0, 11)
    assert made.batches_per_epoch == 1
    starts = set()
    for epoch in range(150):
        x, y = tensor(made.inputs(epoch)), made.labels(epoch)
        assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.int64, torch.int64, (11, 8), (11, 8))
        assert torch.equal(x[:, 1:], y[:, :-1])
        first = x[:, 0].sort().values
        assert (first.diff() == 8).all()
        starts.add(int(first[0]))
    assert starts == set(range(12))
    again = Batches(dataset, 0, 11)
    assert torch.equal(tensor(again.inputs(7)), tensor(made.inputs(7)))


def test_a_file_gives_its_last_tenth_to_the_test_set_before_a_character(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("é" * 50 + "a", encoding="utf-8")
    characters = load(file, tokens="characters", context=2)
    assert (len(characters.train), characters.classes) == (45 - 2, 2)
    assert characters.characters_per_token == 1
    assert load(file, context=2).characters_per_token == pytest.approx(6 / 11)


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (("train", "valid", "test"), b"train", b"test"),
        (("ptb.train", "ptb.valid"), b"ptb.train", b"ptb.valid"),
        (("train-2", "train-1", "test"), b"train-1train-2", b"test"),
        (("retrain", "train", "test"), b"train", b"test"),
        ((".train.swp", "._ptb.train", "train", "test", ".test"), b"train", b"test"),
    ],
)
def test_files_of_a_folder_are_parts_by_name(
    tmp_path: Path, names: tuple[str, ...], train: bytes, test: bytes
) -> None:
    write(tmp_path, **{name: name for name in names})
    assert text_set._read(tmp_path) == (train, test)


def test_a_folder_without_a_test_part_gives_its_last_tenth(tmp_path: Path) -> None:
    assert text_set._read(write(tmp_path, train="0123456789")) == (b"012345678", b"9")


def test_words_and_unknown_words(tmp_path: Path) -> None:
    folder = write(tmp_path, train="to be or not\nto be\n", test="to see or\n")
    dataset = load(folder, tokens="words", context=2)
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.decode(whole(dataset).test_x[0]) == "to <unk>"
    assert dataset.classes == 6
    assert dataset.characters_per_token == pytest.approx(10 / 4)


def test_every_kind_of_tokens_has_a_vocabulary() -> None:
    assert {"bytes", *text_set._BUILDERS} == set(TOKENS)


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (b"", {}, "data.path: {path} is empty; "),
        (b"a", {}, "data.path: {path} has 1 bytes, too few"),
        (b"abc" * 9, {"context": 24}, "data.context: 24 needs 25 tokens at least, but the training part of "),
        (b"abc" * 9, {"context": 3}, "data.context: 3 needs 4 tokens at least, but the test part of {path}"),
        (b"\xff" * 99, {"tokens": "characters"}, "data.path: {path} is no UTF-8 text (byte 0 of a part: "),
        (
            b"abc",
            {"tokens": "byts"},
            'data.tokens: "byts" is neither bytes, characters, words nor a file; did',
        ),
        (
            b"a" * 9 + b" ",
            {"tokens": "words", "context": 1},
            "data.path: the test part of {path} has no token",
        ),
    ],
)
def test_text_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, content: bytes, options: dict[str, Any], told: str
) -> None:
    file = tmp_path / "own.txt"
    file.write_bytes(content)
    assert refusal(file, **options).startswith(told.format(path=file))


def test_paths_that_are_missing_are_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert refusal(absent).startswith(f"data.path: {absent} is not a file or folder; give the file or folder")
    assert refusal(absent, "tokens").startswith(f"data.path: {absent} is not a folder; give the folder")
    assert refusal(tmp_path).startswith(f"data.path: {tmp_path} holds no file train*; ")
    with pytest.raises(ConfigError, match=r"^data\.path: is unset; give the file or folder of text"):
        datasets.load(DataConfig(dataset="text"))


def test_keys_of_text_are_unknown_to_other_data_sets() -> None:
    with pytest.raises(ConfigError, match=r'data\.context: unknown key for data\.dataset = "digits"'):
        files.load(None, ["data.context=3"])


def encoded(folder: Path, train: list[int], val: list[int]) -> Path:
    for name, numbers in (("train", train), ("val", val)):
        (folder / f"{name}.bin").write_bytes(np.array(numbers, "<u2").tobytes())
    return folder


def tokens(folder: Path, **options: Any) -> datasets.Dataset:
    return datasets.load(DataConfig(dataset="tokens", path=str(folder), **options))


def test_encoded_files_are_mapped_and_their_largest_token_counts(tmp_path: Path) -> None:
    dataset = tokens(encoded(tmp_path, [1, 2, 3, 500, 4], [7, 8, 9]), context=2)
    assert whole(dataset).train_x.tolist() == [[1, 2], [2, 3], [3, 500]]
    assert whole(dataset).test_y.tolist() == [[8, 9]]
    assert (dataset.classes, dataset.vocabulary, dataset.characters_per_token) == (501, None, None)
    assert tokens(tmp_path, context=2, vocabulary=50257).classes == 50257


def test_encoded_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    encoded(tmp_path, [1, 2, 3], [1, 2, 900])
    assert refusal(tmp_path, "tokens", context=2, vocabulary=900) == (
        f"data.vocabulary: 900 is too small: {tmp_path}/val.bin holds the token 900; give at least 901"
    )
    assert refusal(tmp_path, "tokens", context=3).startswith("data.context: 3 needs 4 tokens at least, ")
    (tmp_path / "val.bin").write_bytes(b"odd")
    assert refusal(tmp_path, "tokens").startswith(f"data.path: {tmp_path}/val.bin has 3 bytes, which are no")
    (tmp_path / "val.bin").unlink()
    assert refusal(tmp_path, "tokens").startswith(
        f"data.path: {tmp_path}/val.bin cannot be read: No such file"
    )


def test_test_batches_of_long_sequences_are_small(tmp_path: Path) -> None:
    dataset = load(write(tmp_path, train="ab" * 99, test="ab" * 50_000), context=64)
    sizes = [len(x) for x, _ in batches.test_batches(dataset)]
    assert sizes[0] == batches.MOST_POSITIONS // 64
    assert sum(sizes) == len(dataset.test)


def test_tiny_shakespeare_has_its_known_size() -> None:
    if not SHAKESPEARE.is_file():
        pytest.skip("the text is not there: it is looked for in ../shared/data/text")
    dataset = load(SHAKESPEARE, tokens="characters", context=256)
    assert dataset.classes == 65
    assert len(dataset.train) == 1_003_854 - 256
    assert len(dataset.test) == (111_540 - 1) // 256


def test_the_penn_treebank_has_its_known_size(tmp_path: Path) -> None:
    if not PENN.is_file():
        pytest.skip("the Penn Treebank is not there: it is looked for in ../shared/data/ptb")
    with zipfile.ZipFile(PENN) as archive:
        archive.extractall(tmp_path, [f"ptb.{part}.txt" for part in ("train", "valid", "test")])
    dataset = load(tmp_path, tokens="words", context=35)
    assert dataset.classes == 10_000
    assert len(dataset.train) == 929_589 - 35
    assert len(dataset.test) == (82_430 - 1) // 35


def test_a_library_missing_or_a_file_of_another_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    write(tmp_path, train="a b c d", test="a b c d")
    (tmp_path / "own.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    said = refusal(tmp_path, tokens=str(tmp_path / "own.json"))
    assert re.match(rf"data\.tokens: {tmp_path}/own\.json: the library tokenizers is not installed; ", said)


@pytest.mark.parametrize(("name", "file"), [("text", "train.txt"), ("tokens", "train.bin")])
def test_a_pointer_of_git_lfs_is_no_text(tmp_path: Path, name: str, file: str) -> None:
    (tmp_path / file).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    assert refusal(tmp_path, name).startswith(f"data.path: {tmp_path / file}: is a pointer of Git LFS, ")


def test_the_windows_of_a_seed_stay_as_they_are_for_ever(tmp_path: Path) -> None:
    text = "".join(map(chr, range(128))) * 2
    dataset = load(write(tmp_path, train=text, test=text), context=16)
    made = Batches(dataset, 3, 4)
    assert made.batches_per_epoch == 3
    assert [tensor(made.inputs(batch))[:, 0].tolist() for batch in (0, 2, 3)] == [
        [88, 104, 56, 72],
        [8, 56, 72, 8],
        [28, 12, 108, 76],
    ]
