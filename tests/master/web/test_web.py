"""Pages of a master: series of present slaves, and of no departed slave."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.config import files
from common.config.security import SecurityConfig
from common.config.tasks import TASKS
from common.models.resolution import resolve
from common.net import control
from common.observe.visits import Visit
from common.shards.pushes import PushReply
from common.wire import methods
from common.wire.messages import Evaluation, JoinRequest
from master.web.history import History
from master.web.pages import STATIC, pages, targets
from tests.master.served import Served, key_of, served

METRICS = TASKS["classification"].metrics


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, "downpour.staleness=bound") as master:
        yield master


def shown(master: Served, path: str) -> bytes:
    return pages(master.master.view(), History(1.0, METRICS))[path]().body


def samples(master: Served) -> dict[tuple[str, str, str], float]:
    """Samples by name, layer and replica."""
    families = text_string_to_metric_families(shown(master, "/metrics").decode())
    return {
        (s.name, s.labels.get("layer", ""), s.labels.get("replica", "")): s.value
        for family in families
        for s in family.samples
    }


def as_json(master: Served, path: str) -> Any:
    return json.loads(shown(master, path))


def test_a_slave_has_series_while_it_is_here_and_its_counters_go_on_for_the_next(running: Served) -> None:
    assert not any(layer == "1" for _, layer, _ in samples(running))
    lease = running.join("a")
    running.master.run.tally.count_push(1, 0, PushReply("1/weights", 1, 1, staleness=3, applied=True))
    running.master.run.tally.count_push(1, 0, PushReply("1/weights", 1, 1))
    there = samples(running)
    assert there["layerwise_pushes_total", "1", "0"] == 1
    assert there["layerwise_duplicate_pushes_total", "1", "0"] == 1
    assert there["layerwise_push_staleness_sum", "1", "0"] == 3
    assert there["layerwise_lease_age_seconds", "1", "0"] >= 0
    assert there["layerwise_vacant_seats", "", ""] == 2
    running.leave(lease.incarnation)
    assert not any(layer == "1" for _, layer, _ in samples(running))
    running.join("b")
    assert samples(running)["layerwise_pushes_total", "1", "0"] == 1


def test_what_is_known_of_the_run_is_there(running: Served) -> None:
    there = samples(running)
    assert there["layerwise_push_staleness_bound", "", ""] == 16
    assert there["layerwise_master_starts_total", "", ""] == 1
    assert ("layerwise_test_error_ratio", "", "") not in there
    evaluation = Evaluation(10, 25.0, 0.5, {"1/weights": 1}, {"error_percent": 25.0, "of another": 1.0})
    running.do(running.master.ledger.apply(running.master.run.report, evaluation))
    assert samples(running)["layerwise_test_error_ratio", "", ""] == 0.25
    assert samples(running)["layerwise_test_metric", "", ""] == 25.0


def test_prometheus_is_told_of_every_slave_those_that_wait_too(running: Served) -> None:
    for name in "abcd":
        request = JoinRequest(name, f"host-{name}", metrics=f"192.0.2.1:{ord(name)}", key=key_of(name))
        control.call(running.channel, methods.JOIN, request, shown=running.joiner)
    told = as_json(running, "/targets")
    assert told == [
        {"targets": [f"192.0.2.1:{ord(name)}"], "labels": {"host": f"host-{name}"}} for name in "abcd"
    ]


def test_status_is_that_of_the_rpc_and_history_has_the_events(running: Served) -> None:
    running.join("a")
    told = as_json(running, "/status")
    assert [seat["state"] for seat in told["seats"]] == ["training", "vacant", "vacant"]
    assert told["run"]["profile"] == "light"
    assert [event["event"] for event in as_json(running, "/history")["events"]] == ["started", "joined"]


@pytest.mark.parametrize("path", STATIC)
def test_the_live_page_is_in_the_package(running: Served, path: str) -> None:
    assert len(shown(running, path)) > 100


def test_the_live_page_names_nothing_from_elsewhere(running: Served) -> None:
    for path in STATIC.keys() - {"/uPlot.iife.min.js", "/icon.svg"}:
        assert b"//" not in shown(running, path).replace(b"// ", b"").replace(b"127.0.0.1", b""), path


def test_the_commands_train_the_same_again_and_the_configuration_can_be_read(running: Served) -> None:
    told = as_json(running, "/commands")
    words = shlex.split(told["train"])
    assert words[:2] == ["layerwise", "train"]
    assert words[3::2] == told["changed"]
    assert "downpour.staleness=bound" in told["changed"]
    config = running.master.run.config
    assert resolve(files.load(None, told["changed"])) == config.shared
    assert files.parse(shown(running, "/config").decode(), "the page") == config.shared


def test_the_command_of_another_slave_tells_of_certificates(running: Served) -> None:
    secure = pages(running.master.view(secure=True), History(1.0, METRICS))
    assert json.loads(secure["/commands"]().body)["slave"].endswith(" --tls DIR")
    assert "--tls" not in as_json(running, "/commands")["slave"]
    assert any("--tls DIR" in each["advice"] for each in json.loads(secure["/status"]().body)["problems"])


def test_a_measure_of_each_layer_is_asked_for_by_name(running: Served) -> None:
    assert as_json(running, "/layers/loss") == {"time": [], "layers": []}


def test_no_page_tells_of_certificates(running: Served) -> None:
    files_of_tls = SecurityConfig("ca.pem", "certificate.pem", "key.pem")
    config = dataclasses.replace(running.master.run.config, security=files_of_tls)
    view = dataclasses.replace(running.master.view(), config=config)
    for path in ("/config", "/commands", "/status"):
        assert b"key.pem" not in pages(view, History(1.0, METRICS))[path]().body


def told(master: Served, visit: Visit, here: str, **metrics: str) -> list[str]:
    """The targets that a visitor is told of slaves, by host."""
    waiting = [JoinRequest(host, host, metrics=address) for host, address in metrics.items()]
    view = dataclasses.replace(master.master.view(), shown=lambda: waiting)
    return [address for target in targets(view, visit, here) for address in target["targets"]]


def test_a_visitor_is_told_only_of_addresses_that_it_reaches(running: Served) -> None:
    here = Visit("127.0.0.1", "127.0.0.1")
    far = Visit("192.0.2.9", "192.0.2.1")
    slaves = {"mine": "127.0.0.1:1", "other": "127.0.0.1:2", "third": "192.0.2.3:3"}
    assert told(running, here, "mine", **slaves) == ["127.0.0.1:1", "192.0.2.3:3"]
    assert told(running, far, "mine", **slaves) == ["192.0.2.3:3"]


def test_a_slave_on_every_interface_is_named_as_the_visitor_reached_this_machine(running: Served) -> None:
    slaves = {"mine": "0.0.0.0:1", "tunnelled": "[::]:2"}
    assert told(running, Visit("192.0.2.9", "192.0.2.1"), "mine", **slaves) == [
        "192.0.2.1:1", "tunnelled:2",
    ]  # fmt: skip
    assert told(running, Visit("2001:db8::9", "2001:db8::1"), "mine", **slaves)[0] == "[2001:db8::1]:1"
    own = Visit("192.0.2.1", "192.0.2.1")
    assert own.local
    assert told(running, own, "mine", mine="127.0.0.1:1") == ["127.0.0.1:1"]


def test_a_slave_s_nonsense_takes_nothing_from_the_other_targets(running: Served) -> None:
    slaves = {"a": "nonsense", "b": "", "c": "host:99999", "d": "192.0.2.3:3"}
    assert told(running, Visit(), "here", **slaves) == ["192.0.2.3:3"]


def test_a_slave_whose_pages_have_tls_is_named_with_the_scheme(running: Served) -> None:
    request = JoinRequest("a", "far", metrics="https://192.0.2.3:3", key=key_of("a"))
    control.call(running.channel, methods.JOIN, request, shown=running.joiner)
    assert as_json(running, "/targets") == [
        {"targets": ["192.0.2.3:3"], "labels": {"host": "far", "__scheme__": "https"}}
    ]


def test_a_master_is_well_while_it_ticks_and_snapshots_are_current(running: Served) -> None:
    running.do(running.master.tick())
    page = as_json(running, "/healthz")
    assert page["status"] == page["tick"]["status"] == page["snapshot"]["status"] == "ok"
    assert 0 <= page["tick"]["age_seconds"] <= page["tick"]["limit_seconds"] == 10.0


def test_a_master_whose_tick_is_old_fails(running: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.master, "_ticked_at", time.monotonic() - 11)
    page = pages(running.master.view(), History(1.0, METRICS))["/healthz"]()
    assert (page.status, json.loads(page.body)["tick"]["status"]) == (503, "failed")


def test_a_seat_that_stands_still_is_counted(running: Served) -> None:
    for name in "abc":
        running.join(name)
    assert samples(running)["layerwise_standing_seats", "", ""] == 0
    for lease in running.master.run.roster._leases:
        lease.moved -= 301
    assert samples(running)["layerwise_standing_seats", "", ""] == 3
