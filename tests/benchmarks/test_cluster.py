"""The cluster against its rivals, a straggler, and many slaves: ratios, tables, and a small run of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import anatomy, cluster, compiling, crowd, records, scale, seats, stores, straggler
from benchmarks.ways import Job, Layerwise
from common.errors import ConfigError
from tests.integration.processes import COMPILES, ROOT


def _rival(rate: float) -> dict[str, Any]:
    return {"samples_per_second": rate, "test_error_percent": 2.5}


def _ours(rate: float) -> dict[str, Any]:
    return {
        **_rival(rate), "master_share": 0.1, "waiting_fraction": {"1": 0.5, "2": 0.02}, "bottleneck": "2",
    }  # fmt: skip


def _turn(factor: float, ours: float) -> dict[str, dict[str, Any]]:
    rivals = {"bp-1": 100.0, "bp-2": 180.0, "ddp": 50.0, "gpipe": 80.0, "1f1b": 90.0}
    return {
        **{name: _rival(factor * rate) for name, rate in rivals.items()},
        "update light": _ours(factor * ours),
        "update basic": _ours(factor * 180),
    }


RESULT: dict[str, Any] = {
    "batch_size": 10,
    "rounds": [_turn(1, 160), _turn(2, 170), _turn(3, 180)],
    "curves": {"update light": [[10, 4.0], [20, 2.0]], "bp-1": [[10, 4.0]]},
}


def test_a_ratio_is_taken_within_a_round_and_against_the_better_pipeline() -> None:
    found = cluster.summarize(RESULT["rounds"], RESULT["curves"])
    light = found["update light"]
    assert light["of"]["2 x one thread"] == {"p25": 0.825, "median": 0.85, "p75": 0.875}
    assert light["of"]["DDP"]["median"] == 3.4
    assert light["of"]["better pipeline"]["median"] == round(170 / 90, 4)
    assert light["samples_per_second"]["median"] == 340
    assert light["batches_to_target"] == 15
    assert found["bp-1"]["batches_to_target"] is None
    assert found["bp-2"]["of"]["2 x one thread"]["median"] == 0.9
    # That of the layer with the most to do.
    assert light["waiting_at_bottleneck"]["median"] == 0.02


def test_the_tables_say_what_is_asked_and_what_there_is() -> None:
    lines = cluster.table(RESULT).splitlines()
    assert lines[0].count("|") == lines[2].count("|")
    assert (
        "| `update light` | 340 (250 to 440) | 0.85 | 3.40 | 1.89 | 2.50 | 15 | 0.4 | 2.0 | 10.0 |" in lines
    )
    assert "| `bp-1` | 200 (150 to 250) | 0.50 | 2.00 | 1.11 | 2.50 | - | - | - | - |" in lines
    asked = cluster.targets_table(RESULT)
    assert "| of 2 x one thread | >= 0.85 | 0.850 (0.825 to 0.875) | 0.900 (0.900 to 0.900) |" in asked
    assert "| waiting at the bottleneck layer | < 0.05 | 0.020" in asked


def test_on_a_link_as_many_batches_are_needed_as_here() -> None:
    on_link = {**RESULT, "curves": {}}
    said = cluster.tables({"loopback": {"mlp": RESULT}, "links": {"1000 Mbit/s": {"mlp": on_link}}})
    assert "mlp, 1000 Mbit/s:" in said
    # In `basic` as many as in `light`.
    assert said.count("| 2.50 | 15 | 0.4 |") == 4
    assert "| 15 |" not in cluster.tables({"loopback": {}, "links": {"1000 Mbit/s": {"mlp": on_link}}})


def test_a_language_model_is_measured_in_bits_and_needs_a_text(tmp_path: Path) -> None:
    rounds = [
        {name: {**row, "bits_per_token": 2.75} for name, row in turn.items()} for turn in RESULT["rounds"]
    ]
    for turn in rounds:
        for row in turn.values():
            del row["test_error_percent"]
    lines = cluster.table({**RESULT, "rounds": rounds, "curves": {}}).splitlines()
    assert "| bits a token |" in lines[0]
    assert "| `update light` | 340 (250 to 440) | 0.85 | 3.40 | 1.89 | 2.75 | - | - | 2.0 | 10.0 |" in lines
    settings, batch_size = cluster.data_and_network(None, "gpt", tmp_path / "a.txt")
    assert (settings[1], batch_size) == (f"data.path={tmp_path / 'a.txt'}", 16)
    with pytest.raises(ConfigError, match="--text FILE"):
        cluster.data_and_network(None, "gpt")


def test_where_a_machine_has_its_data_is_not_written_down() -> None:
    assert records.without_data_path(("data.path=/home/x", "network.model=mlp")) == ["network.model=mlp"]


STRAGGLER: dict[str, Any] = {
    "batch_size": 10,
    "rows": [
        {"way": "ddp", "layers": 2, "unslowed": {**_rival(100.0), "curve": [[10, 3.0]]},
         "slowed": {**_rival(25.0), "curve": [[10, 3.0]]}},
        {"way": "full light", "layers": 2,
         "unslowed": {**_ours(100.0), "layer_rates": {"1": 100.0, "2": 110.0}, "curve": [[10, 3.0]]},
         "slowed": {**_ours(27.5), "layer_rates": {"1": 95.0, "2": 27.5}, "curve": [[20, 5.0]]}},
    ],
}  # fmt: skip


def test_a_stragglers_table_has_each_process_own_rate() -> None:
    _, _, ddp, full = straggler.table(STRAGGLER).splitlines()
    assert ddp == "| `ddp` | 2 | 100 | 25 | 0.25, 0.25 | 1.0 | 4.0 |"
    assert full == "| `full light` | 2 | 100 | 28 | 0.95, 0.25 | 1.0 | - |"


def test_a_row_of_scale_counts_pushes_and_pulls() -> None:
    row = scale.row([0.002, 0.004], [0.001, 0.003], seconds=2.0, cpu=1.0)
    assert row["mib_per_second"] == 2.0
    assert row["push_milliseconds"]["p50"] == 3.0
    assert row["master_cores"] == 0.5
    assert row["master_cpu_milliseconds"] == 250.0
    times = {"p50": 1.0, "p99": 2.0}
    simulated = {"mib_per_second": 4.0, "push_milliseconds": times, "pull_milliseconds": times}
    row |= {"slaves": 2, "processes": 2, "simulated": simulated, "seconds": 2.0}
    row |= {"server_cpu_seconds": [1.0], "slaves_cpu_seconds": 0.6}
    assert scale.table([row]).splitlines()[2] == (
        "| 2 | 2 | 2 | 3.0 | 4.0 | 2.0 | 3.0 | 0.50 | 250.00 | 0.80 | 5 | 4 | 1.0 | 2.0 | 1.0 | 2.0 |"
    )


def test_two_light_slaves_in_one_process_push_and_pull_every_push_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale, "PROCESSES", 1)
    monkeypatch.setattr(scale, "NBYTES", 4096)
    row = scale.measure(2, 0.2)
    assert row["processes"] == 1
    assert row["mib_per_second"] > 0


def test_what_is_compiled_is_each_layer_of_a_network() -> None:
    (first, shape), (second, inputs) = compiling.layers(cluster.DIGITS["mlp"], (1, 8, 8))
    assert shape == (1, 8, 8)
    assert inputs == (32,)
    h = first(torch.randn(4, *shape))
    assert h.shape == (4, *inputs)
    assert second(h).shape == (4, compiling.CLASSES)


def test_compilings_table_has_a_ratio_of_each_layer() -> None:
    spread = {"p25": 1.0, "median": 1.25, "p75": 1.5}
    row = {"network": "mlp", "layer": 2, "compiling_seconds": 9.6, "times_faster": spread}
    row |= {"eager_milliseconds": spread, "compiled_milliseconds": spread}
    assert (
        compiling.table([row]).splitlines()[2] == "| `mlp`, layer 2 | 1.2 | 1.2 | 1.25 (1.00 to 1.50) | 10 |"
    )


def test_a_cluster_with_a_compiled_layer_is_held_against_one_thread_with_and_without() -> None:
    rates = {"bp-1": 100.0, "bp-1, compiled": 125.0, "update light, compile=[true,false]": 200.0}
    turn = {name: {"samples_per_second": rate, "test_error_percent": 4.0} for name, rate in rates.items()}
    assert compiling.cluster_table([turn]).splitlines()[-1] == (
        "| `update light, compile=[true,false]` | 200 (200 to 200) | 1.00 (1.00 to 1.00) | "
        "0.80 (0.80 to 0.80) | 4.00 |"
    )


@pytest.mark.slow
@pytest.mark.skipif(not COMPILES, reason="no C++ compiler, or not Python's headers")
def test_compiled_and_not_are_compared_on_small_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "WAYS", [cluster.ONE, replace(cluster.ONE, compiled=True)])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    out = tmp_path / "compiling.json"
    few = ["--turns", "1", "--passes", "2", "--rounds", "1", "--batches", "12"]
    compiling.main([*few, "--out", str(out)])
    found = records.read(out)
    assert [(row["network"], row["layer"]) for row in found["rows"]] == [
        ("mlp", 1), ("mlp", 2), ("cnn", 1), ("cnn", 2)
    ]  # fmt: skip
    assert all(row["compiling_seconds"] > 0.5 for row in found["rows"])
    (turn,) = found["cluster"]["rounds"]
    assert turn["bp-1, compiled"]["test_error_percent"] == pytest.approx(
        turn["bp-1"]["test_error_percent"], abs=2
    )


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_rival_and_a_cluster_train_small_networks_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [Layerwise("update", "light"), Layerwise("none", "light")]
    monkeypatch.setattr(cluster, "OURS", ours)
    monkeypatch.setattr(cluster, "SCHEDULES", ("1f1b",))
    monkeypatch.setattr(cluster, "MICROBATCHES", (4,))
    found: dict[str, Any] = {}
    cluster.measure(Job(cluster.DIGITS["mlp"], 64, 20), 1, (20, 10), None, found.update)
    ways = {"bp-1", "bp-2", "ddp", "1f1b", *(way.name for way in ours)}
    assert set(found["rounds"][0]) == ways
    assert set(found["curves"]) == ways - {"bp-2"}
    for name, row in found["rounds"][0].items():
        assert row["samples_per_second"] > 0, name
        assert 0 < row["test_error_percent"] < 100, name
    # Cut anywhere, back-propagation learns the same; only the order of sums differs.
    assert found["curves"]["none light"][-1] == pytest.approx(found["curves"]["bp-1"][-1], abs=3)


@pytest.mark.parametrize(
    "last",
    [
        anatomy.last_tables,
        cluster.last_tables,
        compiling.last_tables,
        crowd.last_table,
        scale.last_table,
        seats.last_table,
        stores.last_table,
        straggler.last_table,
    ],
)
def test_the_page_on_performance_has_the_tables_of_the_last_run(last: Callable[[], str]) -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    # What is between tables says what they are of.
    tables = [each for each in last().split("\n\n") if each.startswith("|")]
    assert tables
    assert all(each in page for each in tables)
