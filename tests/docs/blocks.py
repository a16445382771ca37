"""Fenced blocks of the documentation, and what a test does with them.

Comments before a block say how a test runs it:

    <!-- test: set run.batches=40 -->       appended to commands that take --set, put into Python's keys
    <!-- test: replace cuda:0=cpu -->       other words in the block
    <!-- test: file mine/my_network.py -->  the block is the content of this file
    <!-- test: after slaves -->             the block waits until every slave has ended
    <!-- test: apart, since ... -->         the commands are processes of their own
    <!-- test: skip, since ... -->          commands are parsed, and not run
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages whose every block runs, in the order of the page.
WALKED = [
    *(DOCS / f"{name}.md" for name in ("tutorial", "data", "doctor")),
    *sorted((DOCS / "how-to").glob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ORDER = re.compile(r"<!-- test: (\w+),? ?(.*?) -->")


@dataclass(frozen=True)
class Command:
    """A command line; `place` is the machine that the prompt names."""

    place: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words, without comments and without variables of the environment in front."""
        words = shlex.split(self.text, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        return words


@dataclass(frozen=True)
class Block:
    """A fenced block with the orders of the comments before it."""

    page: Path
    line: int
    language: str
    text: str
    orders: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def overrides(self) -> list[str]:
        """Keys and values for --set."""
        return self.orders.get("set", "").split()

    @property
    def content(self) -> str:
        """The text with the words replaced that the orders replace."""
        text = self.text
        for pair in self.orders.get("replace", "").split():
            word, _, other = pair.partition("=")
            text = text.replace(word, other)
        return text

    def commands(self) -> Iterator[Command]:
        """Yield the commands behind prompts."""
        text = self.content.replace("\\\n", " ")
        for place, command in re.findall(r"^(\w*)\$ (.*)$", text, re.MULTILINE):
            yield Command(place, command)


def read_blocks(page: Path) -> list[Block]:
    """Read the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        orders: dict[str, str] = {}
        for line in reversed(before.splitlines()):
            order = _ORDER.fullmatch(line)
            if order is None:
                break
            orders[order[1]] = order[2]
        found.append(Block(page, before.count("\n") + 1, match[1], match[2], orders))
    return found
