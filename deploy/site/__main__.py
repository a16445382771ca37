"""Write the figures of the unlocks that are checked in; `make figures`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common.config.unlocks import UNLOCKS
from deploy.site import figures

IMAGES = Path(__file__).parents[2] / "docs/images"


def generate() -> Iterator[tuple[Path, str]]:
    """Yield path and text of every generated file."""
    for unlock in UNLOCKS:
        yield IMAGES / figures.name(unlock), figures.draw(unlock)


if __name__ == "__main__":
    for path, text in generate():
        path.write_text(text, encoding="utf-8")
