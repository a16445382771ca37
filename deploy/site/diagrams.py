"""The picture of the rooms as a table: the site loads no script that draws mermaid's flowcharts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deploy.site.text import table

_FENCE = re.compile(r"^```mermaid\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def replace_diagrams(markdown: str) -> str:
    """Return a page with a table of rooms and arrows in the place of each flowchart."""
    return _FENCE.sub(lambda found: _draw(found[1]), markdown)


def _draw(chart: str) -> str:
    """Draw a flowchart of the form of docs/architecture.md: subgraphs, rooms with labels, arrows."""
    package, rooms, arrows = "", dict[str, tuple[str, str]](), dict[str, list[str]]()
    for line in map(str.strip, chart.splitlines()):
        if opened := re.fullmatch(r"subgraph (\w+)", line):
            package = opened[1]
        elif line == "end":
            package = ""
        elif room := re.fullmatch(r'(\w+)\["([^"]+)"\]', line):
            rooms[room[1]] = (package, room[2])
        elif arrow := re.fullmatch(r"([\w &]+?) --> ([\w &]+)", line):
            for above in arrow[1].split(" & "):
                arrows.setdefault(above, []).extend(arrow[2].split(" & "))
        elif not line.startswith("flowchart"):
            raise ValueError(f"{line}: is no line of a flowchart that becomes a table")
    return table(["package", "rooms", "arrows to"], _rows(rooms, arrows))


def _rows(rooms: dict[str, tuple[str, str]], arrows: dict[str, list[str]]) -> Iterator[list[str]]:
    for name, (package, label) in rooms.items():
        yield [
            f"**{package}**" if package else "",
            label,
            "; ".join(rooms[each][1] for each in arrows.get(name, [])),
        ]
