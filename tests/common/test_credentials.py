"""Credentials in the metadata of a call: round trips, one clear error, and comparisons that fail closed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.credentials import (
    INCARNATION,
    NOBODY,
    SECRET,
    TOKEN,
    Credentials,
    check_same,
    credentials_of,
    hash_secret,
    is_proof,
    is_secret,
    prove,
)
from common.errors import MalformedError, UnprovenError

TEXT = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=64)


@given(st.integers(1, 2**53 - 1), TEXT, TEXT)
def test_credentials_come_out_of_metadata_as_they_went_in(incarnation: int, secret: str, token: str) -> None:
    shown = Credentials(incarnation, secret, token)
    assert credentials_of([(":path", "/x"), *shown.metadata()]) == shown


def test_a_caller_without_credentials_sends_none() -> None:
    assert NOBODY.metadata() == []
    assert credentials_of([]) == NOBODY
    # A secret without its lease is nobody's.
    assert Credentials(0, "secret").metadata() == []


VALUES = st.one_of(st.text(max_size=40), st.binary(max_size=40), st.just("9" * 5000), st.just("a" * 5000))


@given(st.lists(st.tuples(st.sampled_from([INCARNATION, SECRET, TOKEN, "x"]), VALUES), max_size=6))
def test_any_metadata_give_credentials_or_one_error(metadata: list[tuple[str, str | bytes]]) -> None:
    shown = NOBODY
    with contextlib.suppress(MalformedError):
        shown = credentials_of(metadata)
    assert shown.incarnation >= 0
    assert not is_secret(shown.secret, "")
    assert not is_secret(shown.token, hash_secret("another"))


def test_a_lease_without_a_hash_has_no_secret() -> None:
    assert not is_secret("", "")
    assert not is_secret("secret", "")
    assert not is_secret("", hash_secret("secret"))
    assert is_secret("secret", hash_secret("secret"))


@given(st.tuples(st.integers(), st.text()), st.tuples(st.integers(), st.text()))
def test_a_proof_is_of_its_words_and_its_secret(one: tuple[int, str], other: tuple[int, str]) -> None:
    proof = prove("secret", *one)
    assert is_proof(proof, "secret", *one)
    assert not is_proof(proof, "another", *one)
    assert not is_proof(proof, "", *one)
    assert is_proof(proof, "secret", *other) == ("|".join(map(str, one)) == "|".join(map(str, other)))
    assert not is_proof("", "secret", *one)
    assert not is_proof("ä", "secret", *one)


def test_secrets_are_in_no_representation_and_in_no_error() -> None:
    shown = Credentials(3, "hidden", "hidden too")
    assert "hidden" not in repr(shown) + str(shown)
    with pytest.raises(UnprovenError) as caught:
        check_same(4, shown.incarnation)
    assert "hidden" not in str(caught.value)
    with pytest.raises(MalformedError) as malformed:
        credentials_of([(SECRET, "hidden" + "\u00e9")])
    assert "hidden" not in str(malformed.value)
