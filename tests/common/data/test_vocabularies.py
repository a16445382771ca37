"""Vocabularies: round trips, unknown characters and words, dumps."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.vocabularies import (
    UNKNOWN_CHARACTER,
    Bytes,
    Characters,
    Library,
    Vocabulary,
    Words,
    restore,
    smallest_dtype,
)
from common.errors import ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXTS)
def test_bytes_and_characters_give_a_text_back(text: str) -> None:
    kinds: list[Vocabulary] = [Bytes(), Characters.of(text, text)]
    for vocabulary in kinds:
        tokens = vocabulary.encode(text)
        assert int(tokens.max()) < vocabulary.size
        assert tokens.dtype == smallest_dtype(vocabulary.size)
        assert vocabulary.decode(tokens) == text


def test_bytes_cut_within_a_character_decode_all_the_same() -> None:
    assert (
        Bytes().decode(Bytes().encode("Krieg \N{EN DASH} Frieden")[:8]) == "Krieg \N{REPLACEMENT CHARACTER}"
    )


def test_characters_are_sorted_and_the_unknown_one_is_there_only_where_the_test_part_needs_it() -> None:
    known = Characters.of("banana", "ban")
    assert known.size == 3
    assert known.encode("nab").tolist() == [2, 0, 1]
    more = Characters.of("banana", "cab")
    assert more.size == 4
    assert more.encode("cab").tolist() == [3, 0, 1]
    assert more.decode([3, 0]) == f"{UNKNOWN_CHARACTER}a"


def test_a_character_without_a_token_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^the text holds 'ß', which the training text lacks; "):
        Characters.of("banana", "a").encode("naß")


def test_words_follow_the_convention_of_the_penn_treebank() -> None:
    words = Words.of(" the <unk> of the N \n the end \n")
    assert words.size == 6
    assert words.decode(range(6)) == "the\n<unk> N end of"
    assert words.encode(" the end\nof time \n").tolist() == [0, 4, 1, 5, 2, 1]
    assert words.decode(words.encode("the end\nof time\n")) == "the end\nof <unk>\n"


def test_words_without_the_unknown_one_get_it() -> None:
    words = Words.of("a a b")
    assert (words.size, words.encode("c b").tolist()) == (3, [2, 1])


def test_every_vocabulary_survives_json() -> None:
    for vocabulary in (Bytes(), Characters.of("naïve", "ß"), Words.of("a b\na")):
        again = restore(json.loads(json.dumps(vocabulary.dump())))
        assert again.dump() == vocabulary.dump()
        assert again.encode("naïv").tolist() == vocabulary.encode("naïv").tolist()


@pytest.mark.parametrize("dumped", [{}, {"kind": "other"}, {"kind": "words", "words": "abc"}])
def test_a_dump_of_no_known_kind_is_refused(dumped: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="the vocabulary is of no known kind"):
        restore(dumped)


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_tokens_take_the_smallest_dtype(size: int, dtype: str) -> None:
    assert smallest_dtype(size) == np.dtype(dtype)


def test_a_librarys_tokenizer_encodes_in_pieces_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the optional library tokenizers is not installed")
    from common.data import vocabularies

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    text = "all happy families are alike\neach unhappy family is unhappy in its own way\n" * 3
    tokenizer.train_from_iterator([text], trainer)
    vocabulary = Library(tokenizer.to_str())
    whole = vocabulary.encode(text)
    monkeypatch.setattr(vocabularies, "_PIECE", 10)
    assert vocabulary.encode(text).tolist() == whole.tolist()
    assert (vocabulary.size, whole.dtype.name) == (tokenizer.get_vocab_size(), "uint16")
    assert restore(vocabulary.dump()).decode(whole) == text


def test_a_file_that_is_no_tokenizer_is_refused() -> None:
    pytest.importorskip("tokenizers", reason="the optional library tokenizers is not installed")
    with pytest.raises(ConfigError, match=r"^is no tokenizer \("):
        Library("{}")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"tokenizers is not installed; pip install 'layerwise\[text\]'"):
        Library("{}")
