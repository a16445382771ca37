"""Text of a file or a folder, as bytes, characters, words or a library's tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.config.data import TOKENS, DataConfig
from common.config.settings import nearest
from common.data.datasets import Dataset
from common.data.downloads import Source
from common.data.pointers import explain_pointer, is_pointer
from common.data.vocabularies import Bytes, Characters, Library, Vocabulary, Words
from common.data.windows import consecutive_windows, overlapping_windows
from common.errors import ConfigError

# Of a text without files for tests, the last tenth is the test part.
_TEST_SHARE = 10
_PARTS = ("train", "valid", "test")


def load(data: DataConfig, path: Path | None, source: Source | None) -> Dataset:  # noqa: ARG001 - no download
    """Read and encode the text at `path`.

    The vocabulary comes from the training part. Of `valid*` and `test*`, the latter is the test set.

    Raises:
        ConfigError: the text or the tokenizer cannot be read, or a part is shorter than a window.
    """
    assert path is not None
    train, test = _read(path)
    vocabulary, (train_tokens, test_tokens) = _encode(data, path, train, test)
    return Dataset(
        data.dataset,
        overlapping_windows(train_tokens, data.steps, f"the training part of {path}"),
        consecutive_windows(test_tokens, data.steps, f"the test part of {path}"),
        {},
        vocabulary.size,
        vocabulary=vocabulary,
        characters_per_token=_count_characters(test) / len(test_tokens),
    )


def _read(path: Path) -> tuple[bytes, bytes]:
    """Read the training part and the test part, each of which is not empty."""
    if not path.is_dir():
        return _split(_content(path), path)
    parts = {part: _files(path, part) for part in _PARTS}
    if not parts["train"]:
        raise ConfigError(f"data.path: {path} holds no file train*; name the text so, or give a file")
    train = b"".join(map(_content, parts["train"]))
    tests = parts["test"] or parts["valid"]
    return (train, b"".join(map(_content, tests))) if tests else _split(train, path)


def _files(folder: Path, part: str) -> list[Path]:
    """List the files of a part, sorted: train.txt, train-1.txt, ptb.train.txt; no hidden ones."""
    name = re.compile(rf"^(?!\.)(.*[._-])?{part}")
    return sorted(file for file in folder.iterdir() if file.is_file() and name.search(file.name))


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"data.path: {file} cannot be read: {error.strerror or error}; give a text file or a folder of "
            "train*, valid* and test*"
        ) from None
    if not content:
        raise ConfigError(f"data.path: {file} is empty; give a file with text")
    if is_pointer(content):
        raise ConfigError(f"data.path: {explain_pointer(file)}")
    return content


def _split(text: bytes, path: Path) -> tuple[bytes, bytes]:
    """Cut the last tenth off, before a character of UTF-8."""
    place = len(text) * (_TEST_SHARE - 1) // _TEST_SHARE
    while place and text[place] & 0xC0 == 0x80:
        place -= 1
    if not place:
        raise ConfigError(f"data.path: {path} has {len(text)} bytes, too few for a training and a test part")
    return text[:place], text[place:]


def _encode(
    data: DataConfig, path: Path, train: bytes, test: bytes
) -> tuple[Vocabulary, tuple[np.ndarray, np.ndarray]]:
    build = _BUILDERS.get(data.tokens)
    if build is None and data.tokens in TOKENS:
        return Bytes(), (np.frombuffer(train, np.uint8), np.frombuffer(test, np.uint8))
    texts = _decode(train, path), _decode(test, path)
    vocabulary = build(*texts) if build else _library(data.tokens, path)
    train_tokens, test_tokens = map(vocabulary.encode, texts)
    if not len(test_tokens):
        raise ConfigError(f"data.path: the test part of {path} has no token; give more text")
    return vocabulary, (train_tokens, test_tokens)


_BUILDERS: dict[str, Callable[[str, str], Vocabulary]] = {
    "characters": Characters.of,
    "words": lambda train, _: Words.of(train),
}


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"data.path: {path} is no UTF-8 text (byte {error.start} of a part: {error.reason}); convert the "
            'file, or choose data.tokens = "bytes"'
        ) from None


def _library(name: str, path: Path) -> Library:
    """Load a tokenizer's file, beside the text (a slave's `--data`) or at its own path."""
    folder = path if path.is_dir() else path.parent
    for file in (Path(name), folder / Path(name).name):
        if file.is_file():
            break
    else:
        raise ConfigError(
            f'data.tokens: "{name}" is neither {", ".join(TOKENS)} nor a file{nearest(name, TOKENS)}'
        )
    try:
        return Library(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.tokens: {file} cannot be read: {error}; give a JSON file") from None
    except ConfigError as error:
        raise ConfigError(f"data.tokens: {file}: {error}") from None


def _count_characters(text: bytes) -> int:
    """Count the characters of UTF-8: all bytes but continuations."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80))
