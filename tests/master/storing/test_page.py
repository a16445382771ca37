"""Pages of a store, as a probe and Prometheus ask for them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

from common.wire.stores import AttendRequest
from master.storing.page import Exposition
from tests.master.storing.running import Cluster, clustered

SHARD = "1/weights"


def _address(cluster: Cluster) -> str:
    """Return the address of the first store's pages, as the master lists it."""
    (report,) = [each for each in cluster.master.master.run.shown() if isinstance(each, AttendRequest)]
    return report.metrics


def _ask(address: str, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}/{page}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_store_shows_its_commits_and_its_health(tmp_path: Path) -> None:
    with clustered(tmp_path, 1) as cluster:
        lease = cluster.join("a")
        cluster.until(lambda: cluster.stores[1].process._order)
        cluster.create(lease, SHARD)
        cluster.push(lease, SHARD, 1)
        address = _address(cluster)
        status, text = _ask(address, "metrics")
        assert status == 200
        assert 'layerwise_journal_seconds_count{profile="light"} 2.0' in text
        assert 'layerwise_refused_total{profile="light",reason="unauthenticated"} 0.0' in text
        assert 'layerwise_process_resident_memory_bytes{layer="",profile="light",replica=""}' in text
        status, text = _ask(address, "healthz")
        health = json.loads(text)
        assert (status, health["status"], health["report"]["status"]) == (200, "ok", "ok")
        assert health["report"]["age_seconds"] < health["report"]["limit_seconds"]


def test_a_store_whose_master_is_away_is_well_and_one_whose_reports_stand_still_is_not(
    tmp_path: Path,
) -> None:
    with clustered(tmp_path, 1) as cluster:
        exposition: Exposition = cluster.stores[1].process._exposition
        cluster.master.do(cluster.master.ports.control.stop(0))
        ended = exposition._reported_at
        cluster.until(lambda: exposition._reported_at > ended)
        assert exposition.health().status == 200
    exposition.silence_limit = 0.0
    assert exposition.health().status == 503
