"""Vocabularies: text to tokens and back.

Tokens are whole numbers from 0 to `size` - 1. A vocabulary comes from the training part alone, and travels
with a trained model as plain JSON.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from common.errors import ConfigError
from common.text import advise_install

# Character that stands for all characters that the training part lacks: REPLACEMENT CHARACTER.
UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"
UNKNOWN_WORD, END_OF_LINE = "<unk>", "<eos>"
_CODE_POINTS = 0x110000
# Characters that a library encodes at a time: its answer takes some hundred bytes a token.
_PIECE = 1 << 20


class Vocabulary(Protocol):
    """Two-way mapping of text and tokens."""

    @property
    def size(self) -> int:
        """Number of different tokens."""

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens of a text, (n,), in the smallest unsigned dtype that holds each token.

        Raises:
            ConfigError: the text holds a character without a token.
        """

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens."""

    def dump(self) -> dict[str, Any]:
        """Return the vocabulary, plain for JSON; `restore` is the inverse."""


class Bytes:
    """Bytes of UTF-8 as tokens."""

    size = 256

    def encode(self, text: str) -> np.ndarray:
        """Return the bytes of a text."""
        return np.frombuffer(text.encode(), np.uint8)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text; bytes that are no UTF-8 become replacement characters."""
        return bytes(tokens).decode(errors="replace")

    def dump(self) -> dict[str, Any]:
        """Return the name alone."""
        return {"kind": "bytes"}


class Characters:
    """Characters as tokens, in a given order; `UNKNOWN_CHARACTER` among them stands for all others."""

    def __init__(self, characters: str) -> None:
        self._characters = characters

    @staticmethod
    def of(train: str, test: str) -> Characters:
        """Collect the training part's characters, sorted; the unknown one where the test part has others."""
        known = np.flatnonzero(np.bincount(_code_points(train)))
        characters = "".join(map(chr, known))
        others = np.setdiff1d(np.flatnonzero(np.bincount(_code_points(test))), known)
        if len(others) and UNKNOWN_CHARACTER not in characters:
            characters += UNKNOWN_CHARACTER
        return Characters(characters)

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self._characters)

    def encode(self, text: str) -> np.ndarray:
        """Return a token for each character."""
        tokens: np.ndarray = self._table[_code_points(text)]
        if len(tokens) and tokens.min() < 0:
            character = text[int(tokens.argmin())]
            raise ConfigError(
                f"the text holds {character!r}, which the training text lacks; leave the character out"
            )
        return tokens.astype(smallest_dtype(self.size))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the characters of tokens."""
        return "".join(self._characters[token] for token in tokens)

    def dump(self) -> dict[str, Any]:
        """Return the characters."""
        return {"kind": "characters", "characters": self._characters}

    @cached_property
    def _table(self) -> np.ndarray:
        """Tokens by code point; -1 without a token."""
        table = np.full(_CODE_POINTS, self._characters.find(UNKNOWN_CHARACTER), np.int32)
        table[_code_points(self._characters)] = np.arange(self.size)
        return table


class Words:
    """Words between white space as tokens, with `<eos>` for the end of a line and `<unk>` for other words.

    The convention of Mikolov's Penn Treebank, whose training part has 10,000 words with these two.
    """

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._tokens = {word: token for token, word in enumerate(words)}

    @staticmethod
    def of(train: str) -> Words:
        """Collect the training part's words, the most frequent ones first."""
        counts = Counter(_split(train))
        counts.setdefault(UNKNOWN_WORD, 0)
        return Words(sorted(counts, key=lambda word: (-counts[word], word)))

    @property
    def size(self) -> int:
        """Number of words."""
        return len(self._words)

    def encode(self, text: str) -> np.ndarray:
        """Return a token for each word and each end of a line."""
        unknown, find = self._tokens[UNKNOWN_WORD], self._tokens.get
        found = (find(word, unknown) for word in _split(text))
        return np.fromiter(found, smallest_dtype(self.size))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the words with spaces between them, and a line for each `<eos>`."""
        return re.sub(f" ?{END_OF_LINE} ?", "\n", " ".join(self._words[token] for token in tokens))

    def dump(self) -> dict[str, Any]:
        """Return the words."""
        return {"kind": "words", "words": self._words}


class Library:
    """Tokens of a tokenizer of the library `tokenizers`.

    Args:
        description: content of the JSON file of the tokenizer.

    Raises:
        ConfigError: the library is not installed, or cannot read the description.
    """

    def __init__(self, description: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise ConfigError(f"the library tokenizers is not installed; {advise_install('text')}") from None
        try:
            self._tokenizer = Tokenizer.from_str(description)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"is no tokenizer ({reason}); give a file that tokenizers has saved") from None
        self.size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str) -> np.ndarray:
        """Return the tokens without special ones; a long text is encoded in pieces of whole lines."""
        pieces = [
            self._tokenizer.encode(piece, add_special_tokens=False).ids for piece in _pieces(text, _PIECE)
        ]
        return np.concatenate([np.array(piece, smallest_dtype(self.size)) for piece in pieces])

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, special ones left out."""
        text: str = self._tokenizer.decode(list(tokens))
        return text

    def dump(self) -> dict[str, Any]:
        """Return the description."""
        return {"kind": "library", "description": self._tokenizer.to_str()}


def restore(dumped: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary that `dump` has described.

    Raises:
        ConfigError: the vocabulary is of no known kind.
    """
    match dumped:
        case {"kind": "characters", "characters": str(characters)}:
            return Characters(characters)
        case {"kind": "words", "words": list(words)}:
            return Words(words)
        case {"kind": "library", "description": str(description)}:
            return Library(description)
        case {"kind": "bytes"}:
            return Bytes()
    raise ConfigError("the vocabulary is of no known kind; train the run again")


def smallest_dtype(size: int) -> np.dtype:
    """Return the smallest unsigned dtype of the numbers 0..size-1."""
    return np.min_scalar_type(max(0, size - 1))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _split(text: str) -> list[str]:
    return text.replace("\n", f" {END_OF_LINE} ").split()


def _pieces(text: str, size: int) -> Iterable[str]:
    """Cut a text behind the first end of a line after each `size` characters."""
    start = 0
    while start < len(text) or not start:
        stop = text.find("\n", start + size) + 1 or len(text)
        yield text[start:stop]
        if stop == start:
            return
        start = stop
