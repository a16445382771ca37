"""Table of faults in docs/faults.md: every test that the table names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Tests by file, and tests of the file that the cell names before (`::name`).
NAMED = re.compile(r"`(tests/[\w./]+\.py)?(?:::(\w+))?(?:\[[^`]*\])?`")


def test_every_test_of_the_table_exists() -> None:
    rows = [row.split(" | ") for row in (ROOT / "docs" / "faults.md").read_text().splitlines()]
    cells = [row[-1] for row in rows if len(row) == 4 and "tests/" in row[-1]]
    assert len(cells) > 80
    for cell in cells:
        file = ""
        for path, name in NAMED.findall(cell):
            file = path or file
            text = (ROOT / file).read_text()
            assert not name or f"def {name}(" in text, f"{file}::{name}"
