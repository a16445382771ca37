"""Text from outside (paths, names, hosts, errors of peers) on the way to a terminal or a log."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    r"""Return the text with escapes such as `\x1b` in place of control and invisible characters.

    A terminal obeys control characters, and text that changes direction deceives the reader.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def say(text: str) -> None:
    """Print a line on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def answer(text: str) -> None:
    """Print a line on standard output, which is for results alone."""
    print(printable(text), flush=True)


def advise_install(extra: str) -> str:
    """Return the command that installs an extra of the package, for the advice of an error."""
    return f"pip install 'layerwise[{extra}]', or '.[{extra}]' in a copy of the repository"


def _escape(character: str) -> str:
    """Escape a character in a way that TOML and JSON read too, where the character may stand in them."""
    number = ord(character)
    if number < 0x80:
        return character.encode("unicode_escape").decode("ascii")
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
