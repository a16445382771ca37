"""Clients written from docs/protocol.md alone, in Python and JavaScript, against a real master."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.processes import ROOT, HandMade

NODE = shutil.which("node")
NODE_CLIENT = ROOT / "tests" / "integration" / "node"
PYTHON_CLIENT = ROOT / "tests" / "integration" / "foreign" / "client.py"
PROTO = ROOT / "protos" / "layerwise.proto"


def run(*command: str | Path) -> str:
    """Run a command that must succeed, and return its standard output."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_generated_stub_creates_pushes_and_pulls_a_shard(by_hand: HandMade, tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    run(sys.executable, "-m", "grpc_tools.protoc", "-I", PROTO.parent, f"--python_out={stubs}", PROTO)
    by_hand.master("--set", "cluster.heartbeat_seconds=60")
    token = (by_hand.cli.folder / "state" / "join.token").read_text()
    assert json.loads(run(sys.executable, "-I", PYTHON_CLIENT, stubs, by_hand.address, token)) == {
        "before": "NOT_FOUND",
        "created": True,
        "first": [True, 1],
        "again": [False, False, 1],
        "pulled": [1, 1, True],
        "second": [True, 2, 0],
        "final": [2, 16, True],
        "same table": True,
        "over": False,
        "after leaving": "ABORTED",
        "imported": [],
    }
    assert by_hand.status()["versions"] == {"1/weights": 2}


@pytest.mark.skipif(NODE is None, reason="node is not installed (packages nodejs, npm)")
@pytest.mark.skipif(
    not (NODE_CLIENT / "node_modules" / "@grpc" / "grpc-js").exists(),
    reason="@grpc/grpc-js is not installed (`make node`)",
)
def test_a_javascript_client_asks_for_the_status(by_hand: HandMade) -> None:
    by_hand.master("--set", "run.name=foreign", "--set", "downpour.replicas=[2, 1, 1]")
    status = json.loads(run(str(NODE), NODE_CLIENT / "status.js", PROTO, by_hand.address))
    expected = by_hand.status()
    for key in ("name", "state", "batches", "of_batches", "waiting_slaves", "starts"):
        assert status[key] == expected[key], key
    seats = [(seat["layer"], seat["replica"], seat["state"]) for seat in status["seats"]]
    assert seats == [(1, 0, "vacant"), (1, 1, "vacant"), (2, 0, "vacant"), (3, 0, "vacant")]
