"""Snippets of docs/python.md run as they are written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.processes import ROOT

SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_runs(number: int, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "my_data.py", tmp_path)
    (tmp_path / "my_network.py").write_text(
        "from torch import nn\n\n\ndef build(input_shape, classes):\n"
        "    return [nn.Linear(*input_shape, 16), nn.Sequential(nn.ReLU(), nn.Linear(16, classes))]\n"
    )
    (tmp_path / "script.py").write_text(SNIPPETS[number])
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
