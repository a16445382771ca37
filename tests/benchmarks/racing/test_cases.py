"""Rows of the race: which are played, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.racing import cases
from benchmarks.racing.cases import KILL, LINKS, STRAGGLER, Case, plan
from benchmarks.racing.ways import CHOSEN, OURS, RIVALS, SELECTED, WAYS, OurWay
from common.config import files
from common.errors import ConfigError


def test_one_thread_comes_first_since_it_sets_the_target() -> None:
    for event in ("", STRAGGLER, KILL):
        first, *others = plan("mlp", event)
        assert first.name == "one-thread/loopback"
        assert first not in others
        assert all(case.event == event for case in others)


def test_every_way_runs_on_loopback_and_the_slow_link_and_selected_ones_everywhere() -> None:
    rows = {(case.way, case.link) for case in plan("gpt")}
    assert {way for way, link in rows if link == "loopback"} == set(WAYS)
    several = {name for name, way in WAYS.items() if way.processes > 1}
    assert {way for way, link in rows if link == "100mbit"} == several
    assert all((way, link) in rows for way in SELECTED for link in LINKS)
    assert {WAYS[way].kind for way in SELECTED} == {
        "data parallel", "local", "pipeline", "asynchronous", "ours"
    }  # fmt: skip


def test_a_pattern_chooses_among_all_ways_on_all_links() -> None:
    names = [
        case.name for case in plan("mlp", KILL, only=["product/50ms", "none/*mbit", "update/loopback+kill"])
    ]
    assert names == [
        "one-thread/loopback", "update/loopback+kill", "none/100mbit+kill", "product/50ms+kill"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="--only nobody/\\*: matches no row"):
        plan("mlp", only=["nobody/*"])


def test_rows_of_other_events_and_limits_are_other_files(tmp_path: Path) -> None:
    rows = [Case("mlp", "ddp", "10ms", event, memory) for event in ("", KILL) for memory in (0, 300)]
    assert len({row.file(tmp_path, 1) for row in rows}) == 4
    assert rows[3].name == "ddp/10ms+kill+300MiB"
    assert rows[0].file(tmp_path, 2) == tmp_path / "mlp-2" / "ddp--10ms.json"


def test_data_that_is_not_given_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--mnist FOLDER"):
        cases.size("mlp", None, None, tiny=False)
    with pytest.raises(ConfigError, match="--text"):
        cases.size("gpt", None, tmp_path / "none.txt", tiny=True)


@pytest.mark.parametrize("way", OURS, ids=lambda way: way.name)
def test_settings_of_ours_are_a_configuration(way: OurWay, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 100)
    size = cases.size("gpt", None, tmp_path / "a.txt", tiny=True)
    config = files.load(None, [*size.settings, *way.all_settings()])
    assert config.cluster.wire == "int8"
    assert config.downpour.replicas == way.replicas


def test_no_row_has_settings_of_its_own() -> None:
    assert all(each in way.all_settings() for way in OURS for each in CHOSEN)
    assert len(WAYS) == len(OURS) + len(RIVALS)
