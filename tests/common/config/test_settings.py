"""Declared tables are read strictly, and every refusal says where and what is near."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import settings
from common.config.settings import choice, key, nearest, read
from common.config.values import is_user_function
from common.errors import ConfigError
from common.registry import Registry, Row

COLOURS = Registry(Row(name="red", help="warm", heeds=("count",)), Row(name="green", help="cold"))


@dataclass(frozen=True)
class Inner:
    depth: int = key(1, "how deep", minimum=1)
    rate: float = key(0.5, "how fast", above=0, maximum=1)


@dataclass(frozen=True)
class Outer:
    word: str = choice("red", COLOURS, "a colour", user_function=True)
    count: int | None = key(None, "how many", minimum=0)
    sizes: list[int] = key([], "their sizes", minimum=1)
    flag: bool = key(False, "whether")
    free: dict[str, Any] = key({}, "whatever")
    inner: Inner = dataclasses.field(default_factory=Inner)


def refusal(values: dict[str, Any], sources: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(Outer, values, "outer.", sources=sources)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_table_gives_the_defaults() -> None:
    assert read(Outer, {}) == Outer()


def test_lists_and_tables_that_are_defaults_are_not_shared() -> None:
    assert Outer().sizes is not Outer().sizes
    assert Outer().free is not Outer().free


def test_an_unknown_key_names_itself_and_the_nearest_known_one() -> None:
    assert refusal({"cuont": 3}) == 'outer.cuont: unknown key; did you mean "outer.count"?'


def test_a_known_key_in_the_wrong_table_is_pointed_at_in_its_own() -> None:
    assert refusal({"depth": 3}) == 'outer.depth: unknown key; did you mean "outer.inner.depth"?'
    assert refusal({"inner": {"count": 3}}) == ('outer.inner.count: unknown key; did you mean "outer.count"?')


def test_the_place_where_a_key_was_given_comes_first_and_the_nearest_place_wins() -> None:
    sources = {"": "run.toml", "outer.inner.depth": "--set"}
    assert refusal({"inner": {"depth": 0}}, sources).startswith("--set: outer.inner.depth: 0 is too small")
    assert refusal({"count": -1}, sources).startswith("run.toml: outer.count: -1 is too small")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 1.0}, "outer.count: expected a whole number, got 1.0"),
        ({"count": True}, "outer.count: expected a whole number, got True"),
        ({"count": "3"}, "outer.count: expected a whole number, got '3'"),
        ({"flag": 1}, "outer.flag: expected true or false, got 1"),
        ({"word": 3}, "outer.word: expected a string, got 3"),
        ({"sizes": 3}, "outer.sizes: expected a list of whole numbers, got 3"),
        ({"sizes": [3, True]}, "outer.sizes: expected a list of whole numbers, got [3, True]"),
        ({"free": 3}, "outer.free: expected a table, got 3"),
        ({"inner": 3}, "outer.inner: is a section, not a value; write outer.inner.KEY = VALUE"),
        ({"inner": {"rate": "0.1"}}, "outer.inner.rate: expected a number, got '0.1'"),
        ({"inner": {"rate": False}}, "outer.inner.rate: expected a number, got False"),
    ],
)
def test_a_value_of_another_type_is_refused_and_nothing_is_converted(
    values: dict[str, Any], said: str
) -> None:
    assert refusal(values) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": -1}, "outer.count: -1 is too small; at least 0 is needed"),
        ({"sizes": [4, 0]}, "outer.sizes: 0 is too small; at least 1 is needed"),
        ({"inner": {"rate": 0}}, "outer.inner.rate: 0.0 is too small; it must be above 0"),
        ({"inner": {"rate": 1.5}}, "outer.inner.rate: 1.5 is too large; at most 1 is allowed"),
        ({"inner": {"rate": float("nan")}}, "outer.inner.rate: expected a finite number, got nan"),
        ({"inner": {"rate": float("inf")}}, "outer.inner.rate: expected a finite number, got inf"),
        ({"count": 1 << 63}, "outer.count: a number of more than 64 bits"),
        ({"inner": {"rate": 10**400}}, "outer.inner.rate: a number of more than 64 bits"),
        ({"free": {"deep": [{"er": 1 << 64}]}}, "outer.free: a number of more than 64 bits"),
        ({"free": {"path": "a\0b"}}, "outer.free: 'a\\x00b' is not UTF-8 text without NUL"),
        ({"word": "\udcff"}, "outer.word: '\\udcff' is not UTF-8 text without NUL"),
        (
            {"word": "blue"},
            'outer.word: "blue" is not one of red, green, or path/to/file.py:function',
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bound(values: dict[str, Any], said: str) -> None:
    assert refusal(values) == said


def test_a_whole_number_passes_for_a_float_and_becomes_one() -> None:
    rate = read(Outer, {"inner": {"rate": 1}}).inner.rate
    assert rate == 1.0
    assert isinstance(rate, float)


def test_a_users_function_passes_where_choices_allow_one() -> None:
    assert read(Outer, {"word": "own/net.py:build"}).word == "own/net.py:build"


@pytest.mark.parametrize("text", ["net.py", "net.py:", "net:f", "net.py:a-b", "net.py:a.b", ":f", ""])
def test_what_is_no_file_and_function_is_no_users_function(text: str) -> None:
    assert not is_user_function(text)


def test_a_word_near_to_none_gets_the_list_of_all() -> None:
    assert nearest("xyzzy", ["alpha", "beta"]) == "; known are alpha, beta"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*(f.name for f in dataclasses.fields(Outer)), "depth", "rate"]) | st.text(max_size=4)


@given(st.dictionaries(NAMES, JUNK, max_size=3))
def test_whatever_is_given_is_read_or_refused_with_a_config_error(values: dict[str, Any]) -> None:
    said = "run.toml: "
    try:
        read(Outer, values, sources={"": "run.toml"})
    except ConfigError as error:
        said = str(error)
    assert said.startswith("run.toml: ")


def test_keys_are_dotted_through_every_sub_table() -> None:
    assert list(settings.keys(Outer)) == [
        "word", "count", "sizes", "flag", "free", "inner.depth", "inner.rate",
    ]  # fmt: skip
