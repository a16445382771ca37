"""Reference of the Python interface, from signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from deploy.site.text import code, escape, table

PAGE = "reference/python.md"
_HEAD = """\
# Python interface

The names of the package `layerwise`, generated from the docstrings; [From Python](../python.md) is the guide.
"""
_TITLES = {"Args": "argument", "Attributes": "attribute", "Raises": "error"}
_STARS: dict[object, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
_TITLE = re.compile(rf"({'|'.join([*_TITLES, 'Returns'])}):")


def render() -> str:
    """Render the page."""
    # The package re-exports the interface, and nothing here may import it by a statement.
    package = importlib.import_module("layerwise")
    parts = [_HEAD]
    for name in sorted(package.__all__, key=lambda name: (name[0].isupper(), name)):
        parts += _entry(name, getattr(package, name))
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield f"## {name} {{ #{name} }}\n"
    if not inspect.isclass(thing):
        yield f"```python\n{_signature(f'layerwise.{name}', thing)}\n```\n"
        yield from render_docstring(inspect.getdoc(thing) or "")
        return
    if issubclass(thing, Exception):
        yield f"An error, a `{thing.__mro__[1].__name__}`.\n"
    yield from render_docstring(inspect.getdoc(thing) or "")
    if name == "Config":
        yield "Sections and keys are those of the [configuration](configuration.md).\n"
        return
    for part, member in vars(thing).items():
        if part.startswith("_"):
            continue
        if isinstance(member, property | cached_property):
            yield f"### {name}.{part}\n"
            yield from render_docstring(inspect.getdoc(member) or "")
        elif inspect.isfunction(member):
            yield f"### {name}.{part}()\n"
            yield f"```python\n{_signature(part, member)}\n```\n"
            yield from render_docstring(inspect.getdoc(member) or "")


def _signature(name: str, function: Callable[..., Any]) -> str:
    """Format a signature, with annotations as they are written."""
    signature = inspect.signature(function)
    shown, keyword = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            shown.append("*")
        stars = _STARS.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        shown.append(f"{stars}{parameter.name}: {parameter.annotation}{default}")
    inside = "".join(f"\n    {each}," for each in shown)
    end = "\n" if inside else ""
    return f"{name}({inside}{end}) -> {signature.return_annotation}"


def render_docstring(text: str) -> Iterator[str]:
    """Render a docstring of Google's form in Markdown: paragraphs, examples, and a table for each section."""
    title = ""
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        if found := _TITLE.fullmatch(lines[0].strip()):
            title, lines = found[1], lines[1:]
        elif not block.startswith("    "):
            title = ""
        body = inspect.cleandoc("\n".join(["", *lines]))
        if title in _TITLES:
            yield table([_TITLES[title], "meaning"], _items(body))
        elif body.startswith(">>>"):
            yield f"```pycon\n{body}\n```\n"
        else:
            yield f"{'Returns: ' if title else ''}{escape(body)}\n"


def _items(text: str) -> Iterator[list[str]]:
    """Yield name and meaning of every entry of a section; further lines of an entry are indented."""
    for entry in re.split(r"\n(?! )", text):
        name, _, meaning = entry.partition(":")
        yield [code(name), escape(" ".join(meaning.split()))]
