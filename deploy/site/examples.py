"""Page of the examples: every file of examples/, as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from deploy.site.links import EXAMPLES_PAGE

PAGE = EXAMPLES_PAGE
_LANGUAGES = {".py": "python", ".toml": "toml", ".ipynb": "python"}
_HEAD = """\
# Examples

The files of the repository's folder `examples/`, each of which the tests run.
"""


def render(folder: Path) -> str:
    """Render the page from the folder of the examples."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _LANGUAGES)
    return "\n".join([_HEAD, *(part for file in files for part in _file(file))])


def _file(file: Path) -> Iterator[str]:
    yield f"## {file.name} {{ #{file.name} }}\n"
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    yield f"```{_LANGUAGES[file.suffix]}\n{text.rstrip()}\n```\n"
