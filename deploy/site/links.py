"""Links between pages: what a page of the repository links to, and where the site has that."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

DOCS = "docs/"
EXAMPLES = "examples/"
EXAMPLES_PAGE = "examples.md"
# Files beside the folder of the documentation that are pages of the site.
ROOT_PAGES: Mapping[str, str] = {
    "README.md": "index.md",
    "SECURITY.md": "SECURITY.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
_HOMES = {page: file for file, page in ROOT_PAGES.items()}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")


def move_links(markdown: str, page: str, root: Path) -> str:
    """Return a page with every link to a file of the repository led to the site's page of it.

    A link to a file that the site does not have becomes its bare text. Links within the folder of the
    documentation, and targets that do not exist, stay as they are: the build checks them.

    Args:
        markdown: the page.
        page: place in the site, such as "decisions/size.md".
        root: of the repository.
    """
    home = posixpath.dirname(_HOMES.get(page, DOCS + page))

    def move(found: re.Match[str]) -> str:
        image, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        file = posixpath.normpath(posixpath.join(home, target))
        if ":" in target or not (root / file).exists():
            return found[0]
        place = None if (root / file).is_dir() else _place(file)
        if place is None:
            return text
        if place.startswith(EXAMPLES_PAGE):
            place, _, anchor = place.partition("#")
            anchor = f"#{anchor}"
        return f"{image}[{text}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(move, markdown)


def _place(file: str) -> str | None:
    """Return the site's page of a file; None: it has none."""
    if file in ROOT_PAGES:
        return ROOT_PAGES[file]
    if file.startswith(DOCS):
        return file.removeprefix(DOCS)
    if file.startswith(EXAMPLES):
        return f"{EXAMPLES_PAGE}#{file.removeprefix(EXAMPLES)}"
    return None
