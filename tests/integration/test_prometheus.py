"""A real Prometheus over a real run: every query of dashboards, rules and alerts finds data."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from deploy.dashboards.panels import DASHBOARDS
from tests.integration.processes import ROOT, Cli, HandMade, until

FOLDER = ROOT / "deploy" / "prometheus"
PROMETHEUS = shutil.which("prometheus")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (package prometheus)"),
]

# A healthy run on CPUs has no GPU and, without unlock `full`, streams, own losses of units and levels, no I,
# no M in time, no such loss and no level.
WITHOUT_DATA = (
    "gpu_utilization", "gpu_memory_utilization", "input_loss", "time_loss", "time_cosine", "time_aux_loss",
    "own_loss", "layerwise_level",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def trained(web: str, token: str) -> int:
    """Return the number of batches that the whole network has trained."""
    shown = {"Authorization": f"Bearer {token}"}
    with urlopen(Request(f"http://{web}/status", headers=shown), timeout=20) as answer:
        return int(json.load(answer)["batches"])


class Prometheus:
    """Debian's Prometheus with the deployed files, but a free port and a short scrape interval."""

    def __init__(self, folder: Path, master: str, token: Path) -> None:
        shutil.copytree(FOLDER, folder / "etc")
        config = folder / "etc" / "prometheus.yml"
        text = config.read_text().replace("master:8080", master).replace("/reader/token", str(token))
        config.write_text(re.sub(r"(interval|timeout): \d+s", r"\1: 1s", text))
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "log").open("w"),
        )

    def query(self, expr: str) -> list[Any]:
        """Return the series that an expression selects now."""
        with urlopen(f"{self.address}/api/v1/query?{urlencode({'query': expr})}", timeout=20) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
        return found

    def value(self, expr: str) -> float | None:
        """Return the newest value of the series that an expression selects; None without a series."""
        found = self.query(expr)
        return float(found[0]["value"][1]) if found else None

    def up(self) -> int:
        """Return the number of processes that the last scrape reached."""
        try:
            return len([series for series in self.query("up") if series["value"][1] == "1"])
        except URLError:
            return 0


@pytest.fixture
def prometheus(cli: Cli, by_hand: HandMade, tmp_path: Path) -> Iterator[Prometheus]:
    staleness = ["--set", "downpour.staleness=bound", "--set", "downpour.replicas=[2, 1, 1]"]
    token = tmp_path / "token"
    # Beyond this machine, where pages ask for the reader's token.
    beyond = ["--web", "0.0.0.0:0", "--insecure", "--reader-token-file", str(token)]
    by_hand.master(
        *staleness,
        *beyond,
        "--set",
        "run.batches=1000000",
        "--set",
        "cluster.snapshot_seconds=1",
        "--set",
        "cluster.stores=1",
    )
    by_hand.store(1)
    for _ in range(4):
        by_hand.slave("--metrics", "0.0.0.0:0", "--insecure")
    web = (cli.folder / "state" / "web").read_text().replace("0.0.0.0", "127.0.0.1")
    until(lambda: trained(web, token.read_text()) > 30, 120)
    assert cli.run("evaluate", "--master", by_hand.address).returncode == 0
    running = Prometheus(tmp_path, web, token)
    try:
        # The master, its store and four slaves.
        until(lambda: running.up() == 6)
        yield running
    finally:
        running.process.terminate()
        running.process.wait(20)


def queries() -> Iterator[str]:
    for page in DASHBOARDS:
        for panel in page.panels:
            yield from (query.expr for query in panel.queries)
    yield from re.findall(r"record: (\S+)", (FOLDER / "rules.yml").read_text())
    # An alert's own expression selects nothing while the run is healthy, so query its metrics.
    yield from re.findall(r"\b(?:layer:)?layerwise_\w+(?::\w+)?", (FOLDER / "alerts.yml").read_text())


def test_every_query_finds_data(prometheus: Prometheus) -> None:
    asked = {expr for expr in queries() if not any(name in expr for name in WITHOUT_DATA)}
    assert len(asked) > 40

    def unanswered() -> list[str]:
        return [expr for expr in sorted(asked) if not prometheus.query(expr)]

    try:
        until(lambda: not unanswered(), 60)
    except AssertionError:
        raise AssertionError(f"without data: {unanswered()}") from None
    slaves = prometheus.query("layerwise_samples_total")
    assert sorted((s["metric"]["layer"], s["metric"]["replica"]) for s in slaves) == [
        ("1", "0"), ("1", "1"), ("2", "0"), ("3", "0"),
    ]  # fmt: skip
    assert prometheus.query('ALERTS{alertstate="firing"}') == []


def test_a_slave_that_has_gone_is_scraped_no_more_and_one_that_comes_is(
    prometheus: Prometheus, by_hand: HandMade
) -> None:
    by_hand.slave("--metrics", "0.0.0.0:0", "--insecure")
    until(lambda: prometheus.up() == 7)
    until(lambda: prometheus.value("layerwise_waiting_slaves") == 1)
    victim = next(seat["pid"] for seat in by_hand.status()["seats"] if seat["layer"] == 3)
    next(p for p in by_hand.cli.of_kind("slave") if p.pid == victim).kill()
    until(lambda: prometheus.up() == 6)
    until(lambda: prometheus.value("layerwise_leases_granted_total{layer='3'}") == 2)
    # Only the successor exposes the layer.
    until(lambda: len(prometheus.query("layerwise_samples_total{layer='3'}")) == 1)
