"""Simulated light slaves: what they reach can be counted by hand."""

from __future__ import annotations

import pytest

from benchmarks import crowd, scale, stores
from benchmarks.crowd import Cost, Costs, Crowd

# Of the 10 ms of a push and a pull 4 are the server's.
COSTS = Costs(Cost(0.002, 0.002, 0.004), Cost(0.002, 0.004, 0.006), Cost(0.0, 0.0, 0.0), 0.0)


def test_slaves_wait_for_nobody_until_the_server_is_full() -> None:
    # A push and a pull of 1 MiB every 10 ms; from three slaves on the server works all the time.
    rates = [Crowd(slaves, 0, COSTS).run(2.0)["mib_per_second"] for slaves in (1, 2, 8)]
    assert rates == pytest.approx([200.0, 400.0, 500.0], rel=0.02)
    assert Crowd(1, 0, COSTS).run(2.0)["master_cores"] == pytest.approx(0.4, rel=0.02)


def test_the_cores_of_one_machine_are_for_slaves_and_servers_alike() -> None:
    # 4 ms of the server and 6 ms of the slave for 2 MiB, on two cores: one core is left for the slaves.
    row = Crowd(8, 0, COSTS, cores=2).run(2.0)
    assert row["mib_per_second"] == pytest.approx(400.0, rel=0.05)


def test_stores_share_the_work_of_the_master() -> None:
    rows = [Crowd(64, count, COSTS).run(2.0) for count in (0, 1, 2, 4)]
    assert [row["mib_per_second"] for row in rows] == pytest.approx([500.0, 500.0, 1000.0, 2000.0], rel=0.02)
    assert [row["master_cores"] for row in rows[1:]] == pytest.approx([0.0] * 3, abs=0.01)
    # Everybody waits for 64 turns of 4 ms, shared by the stores.
    waits = [row["push_milliseconds"]["p50"] + row["pull_milliseconds"]["p50"] for row in rows]
    assert waits == pytest.approx([256.0, 256.0, 128.0, 64.0], rel=0.05)


def test_a_link_bounds_what_its_process_serves() -> None:
    row = Crowd(64, 2, COSTS, bandwidth=64 * (1 << 20)).run(4.0)
    # 64 MiB a second each way of two stores.
    assert row["mib_per_second"] == pytest.approx(256.0, rel=0.05)
    assert crowd.find_bound(row) == "links"


def test_the_same_seed_gives_the_same_numbers() -> None:
    costs = Costs(COSTS.push, COSTS.pull, Cost(0.001, 0.001, 0.002), 0.2)
    assert Crowd(32, 2, costs, pause=0.1).run(2.0) == Crowd(32, 2, costs, pause=0.1).run(2.0)


def test_costs_go_from_warm_to_cold_with_the_bytes_of_all_slaves() -> None:
    milliseconds = {"server": 1.0, "slave": 1.0, "alone": 2.0}
    warm = {"push": milliseconds, "pull": milliseconds, "heartbeat": milliseconds, "sigma": 0.1}
    cold = {**warm, "push": {**milliseconds, "server": 2.0}, "sigma": 0.2}
    measured = {"warm": warm, "cold": cold, "nbytes": 1 << 20, "cache_bytes": 32 << 20}
    found = [scale.costs_of(slaves, measured) for slaves in (4, 8, 64)]
    assert [each.push.server for each in found] == pytest.approx([0.0015, 0.002, 0.002])
    assert [each.pull.server for each in found] == pytest.approx([0.001] * 3)


def test_the_busiest_process_is_held_against_the_one_master() -> None:
    row = {"pushes": 100, "server_cpu_seconds": [0.05, 0.1, 0.12]}
    assert stores.busiest(row) == pytest.approx(1.2)
    assert stores.all_servers(row) == pytest.approx(2.7)
