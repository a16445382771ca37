"""Pages of real processes: names of --allow-host, both address families, and what Prometheus is told."""

from __future__ import annotations

import json
import re
from http.client import HTTPConnection
from pathlib import Path

from common.net.tokens import READER_TOKEN
from tests.integration.processes import QUICK, HandMade, until


def asked(address: str, path: str, host: str, token: str = "") -> tuple[int, bytes]:
    """Ask for a page under a name, and show a token; status and body."""
    connection = HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", path, headers={"Host": host, "Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_master_and_slave_answer_under_an_allowed_name_and_slaves_are_listed_for_other_machines(
    by_hand: HandMade,
) -> None:
    allowed = ["--allow-host", "runs.svc.cluster.local", "--allow-host", "dash.example.org"]
    # A run without an end.
    by_hand.master("--web", "0.0.0.0:0", "--insecure", *allowed, *QUICK, "--set", "run.batches=100000000")
    web = (by_hand.cli.folder / "state" / "web").read_text()
    port = web.rpartition(":")[2]
    for host, status in [("runs.svc.cluster.local", 200), ("dash.example.org", 200), ("other.example", 421)]:
        assert asked(f"127.0.0.1:{port}", "/healthz", host)[0] == status
        assert asked(f"[::1]:{port}", "/healthz", host)[0] == status
    token = (by_hand.cli.folder / "state" / READER_TOKEN).read_text()
    slave = by_hand.slave("--metrics", "0.0.0.0:0", "--insecure", *allowed)
    assert slave.poll() is None

    def listed() -> list[str]:
        targets = json.loads(asked(f"[::1]:{port}", "/targets", "localhost", token)[1])
        return [address for target in targets for address in target["targets"]]

    (address,) = until(listed)
    # As the visitor reached this machine, and there the slave answers.
    assert re.fullmatch(r"\[::1\]:\d+", address)
    # The master lists a slave a moment before the slave has the answer.
    until(lambda: asked(address, "/healthz", "runs.svc.cluster.local")[0] == 200)
    assert asked(address, "/healthz", "other.example")[0] == 421
    # The slave has the token from the master, with an answer to one of its first heartbeats.
    until(lambda: asked(address, "/metrics", "localhost", token)[0] == 200)
    assert asked(address, "/metrics", "localhost", "0" * 32)[0] == 401
    assert asked(f"[::1]:{port}", "/metrics", "localhost")[0] == 401


def test_a_name_that_cannot_be_allowed_is_refused_in_one_line(by_hand: HandMade, tmp_path: Path) -> None:
    (by_hand.cli.folder / "run.toml").touch()
    for command in (
        ["master", "run.toml", "--state-dir", str(tmp_path / "state")],
        ["slave", "--master", "127.0.0.1:1"],
    ):
        done = by_hand.cli.run(*command, "--allow-host", "http://runs.example.org")
        assert done.returncode == 2
        assert done.stderr.startswith("layerwise: --allow-host http://runs.example.org: is no name of a host")
        assert len(done.stderr.splitlines()) == 1
