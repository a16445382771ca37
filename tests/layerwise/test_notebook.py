"""The example notebook runs in a real kernel, and shows the progress in its cell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.integration.processes import ROOT


@pytest.mark.slow
def test_the_notebook_runs_and_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown: list[str] = []

    class Watching(NotebookClient):  # type: ignore[misc]
        """Keeps every status, which the next one replaces."""

        def process_message(self, message: Any, *place: Any) -> Any:
            if message["msg_type"] == "update_display_data":
                shown.append(message["content"]["data"]["text/plain"])
            return super().process_message(message, *place)

    notebook = nbformat.read(ROOT / "examples" / "first.ipynb", as_version=4)
    Watching(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    first, curves, model = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    lines = "".join(output.text for output in first if output.output_type == "stream")
    assert "training 3 layers on digits" in lines
    # The last evaluation may repeat one of the same batch.
    evaluated = set(re.findall(r"batch +(\d+) +test error", lines))
    assert len(evaluated) == len(curves[0].data["text/plain"].split(","))
    assert any("samples/s" in text and "layer" in text for text in shown)
    assert shown[-1] == ""
    assert not [output for output in first if output.get("name") == "stderr"]
    assert model[0].data["text/plain"].startswith("tensor(")
