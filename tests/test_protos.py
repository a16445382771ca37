"""The generated code beside protos/ is what the checked-in .proto makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed: nothing to generate with")
    command = [
        sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT),
        f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", "protos/layerwise.proto",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT)
    made = sorted((tmp_path / "protos").iterdir())
    assert [path.name for path in made] == ["layerwise_pb2.py", "layerwise_pb2.pyi"]
    for path in made:
        assert path.read_text() == (ROOT / "protos" / path.name).read_text(), (
            f"{path.name}: run `make protos`"
        )
