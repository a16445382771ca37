"""Reference of the wire, from the service descriptions with their comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from deploy.site.text import code, escape, sentence, table

PAGE = "reference/wire.md"
_HEAD = """\
# Services and messages

Every service, message and number, generated from `protos/layerwise.proto`; [the protocol](../protocol.md) has
the rules around them.
"""
_OPENING = re.compile(r"(service|message|enum) (\w+) \{(\})?")
_METHOD = re.compile(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);")
_FIELD = re.compile(r"(?:([\w.<>, ]+) )?(\w+) = (\d+);")


@dataclass
class Entry:
    """A method, a field or a value of an enumeration.

    Attributes:
        name: of the entry.
        cells: cells of its row before the meaning.
        meaning: the comment above it or behind it.
    """

    name: str
    cells: list[str]
    meaning: str


@dataclass
class Block:
    """A service, a message or an enumeration, with its comment."""

    kind: str
    name: str
    comment: str
    entries: list[Entry] = field(default_factory=list)


def parse(text: str) -> list[Block]:
    """Parse service descriptions in the form that this project writes: an entry a line, comments by `//`.

    Raises:
        ValueError: a line of another form.
    """
    blocks: list[Block] = []
    inside = False
    comment: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        content, _, behind = (part.strip() for part in line.partition("//"))
        if not content:
            # A comment of several paragraphs has empty lines of its own; a line without `//` ends it.
            comment = [*comment, behind] if "//" in line else []
        elif opened := _OPENING.fullmatch(content):
            blocks.append(Block(opened[1], opened[2], "\n".join(comment)))
            inside, comment = not opened[3], []
        elif content == "}":
            inside, comment = False, []
        elif not inside or content.startswith("reserved "):
            comment = []
        else:
            blocks[-1].entries.append(_entry(content, " ".join([*comment, behind]).strip(), number))
            comment = []
    return blocks


def _entry(content: str, meaning: str, number: int) -> Entry:
    if method := _METHOD.fullmatch(content):
        name, *types = method[1], (method[2], method[3]), (method[4], method[5])
        return Entry(name, [f"{stream or ''}[{code(each)}](#{each})" for stream, each in types], meaning)
    if found := _FIELD.fullmatch(content):
        return Entry(found[2], [code(found[1] or ""), found[3]] if found[1] else [found[3]], meaning)
    raise ValueError(f"line {number}: {content}: is no method, field or value")


_COLUMNS = {
    "service": ["method", "request", "reply", "meaning"],
    "message": ["field", "type", "number", "meaning"],
    "enum": ["value", "number", "meaning"],
}


def render(text: str) -> str:
    """Render the page from the text of the service descriptions."""
    blocks = parse(text)
    messages = {block.name for block in blocks}
    return "\n".join([_HEAD, *(part for block in blocks for part in _block(block, messages))])


def _block(block: Block, messages: set[str]) -> Iterator[str]:
    kind = "" if block.kind == "message" else f"{block.kind} "
    yield f"## {kind}{block.name} {{ #{block.name} }}\n"
    if block.comment:
        yield escape(block.comment) + "\n"
    if not block.entries:
        yield "Empty.\n"
    yield table(_COLUMNS[block.kind], (_row(entry, messages) for entry in block.entries))


def _row(entry: Entry, messages: set[str]) -> list[str]:
    cells = [_link(cell, messages) for cell in entry.cells]
    return [code(entry.name), *cells, escape(sentence(entry.meaning)) if entry.meaning else ""]


def _link(cell: str, messages: set[str]) -> str:
    """Link the message that a field has as its type."""
    last = re.split(r"[ ,<>`]+", cell.strip("`"))[-1] if cell.startswith("`") else ""
    return f"[{cell}](#{last})" if last in messages else cell
