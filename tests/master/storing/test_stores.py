"""Master and stores in one process: places, exactly once, fences, deaths and strangers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from common.errors import (
    ConfigError,
    FencedError,
    LayerwiseError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from common.net import control
from common.net.access import Role
from common.net.addresses import split_address
from common.net.data.client import DataClient
from common.net.http2.tls import Tls
from common.shards.pushes import PushReply
from common.wire import methods
from common.wire.messages import JoinReply, RollbackRequest, SnapshotRequest, SnapshotsRequest
from common.wire.methods import PLACE, Method
from common.wire.stores import PlaceRequest
from master.web.scrape import scrape
from tests.authority import identity, write_certificate
from tests.master.pushes import creation
from tests.master.served import DEADLINE, Served, served
from tests.master.storing.running import Cluster, RunningStore, clustered, send

SHARD = "1/weights"
Result = TypeVar("Result")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with clustered(tmp_path, 2) as made:
        yield made


def test_shards_are_dealt_to_the_store_with_the_fewest_bytes(cluster: Cluster) -> None:
    lease = cluster.join("a")
    dealt = [
        cluster.place(lease, f"1/{kind}", nbytes).store
        for kind, nbytes in (("weights", 100), ("gradient", 40), ("optimizer", 50), ("input", 30))
    ]
    assert dealt == [1, 2, 2, 2]
    assert cluster.place(lease, "1/weights", 1).store == 1
    assert cluster.locate("1/weights").store == cluster.locate("1/average").store == 1
    with pytest.raises(NotFoundError, match="no shard"):
        cluster.locate("2/weights")
    states = cluster.status().stores
    assert [(each.number, each.state, each.nbytes) for each in states] == [
        (1, "serving", 100),
        (2, "serving", 120),
    ]


def test_a_push_is_applied_once_and_the_master_learns_of_it(cluster: Cluster) -> None:
    lease = cluster.join("a")
    cluster.create(lease, SHARD)
    assert cluster.push(lease, SHARD, 1).applied
    assert not cluster.push(lease, SHARD, 1).applied
    assert cluster.value(SHARD) == (1, 1.0)
    cluster.until(lambda: cluster.status().versions == {SHARD: 1})
    status = cluster.status()
    assert (status.counters.pushes, status.counters.duplicate_pushes) == (1, 1)
    text = scrape(cluster.master.master.view()).decode()
    assert 'layerwise_pushes_total{layer="1",profile="light",replica="0"} 1.0' in text
    assert 'layerwise_duplicate_pushes_total{layer="1",profile="light",replica="0"} 1.0' in text
    assert 'layerwise_store_pushes_total{profile="light",store="1"} 1.0' in text
    assert 'layerwise_store_bytes{profile="light",store="1"} 4.0' in text


def test_a_successor_reads_a_progress_that_its_predecessor_cannot_change(cluster: Cluster) -> None:
    first = cluster.join("a")
    cluster.create(first, SHARD)
    cluster.push(first, SHARD, 1)
    cluster.master.leave(first.incarnation)
    second = cluster.join("b")
    assert (second.layer, second.next_batch) == (1, 1)
    with pytest.raises(FencedError):
        cluster.push(first, SHARD, 2)
    assert cluster.push(second, SHARD, 1).version == 2


def test_a_lease_that_the_store_was_not_told_of_may_come_again(cluster: Cluster) -> None:
    lease = cluster.join("a")
    cluster.create(lease, SHARD)
    leases = cluster.stores[1].process._shelf.leases  # type: ignore[union-attr]
    with pytest.raises(UnreachableError, match="not told of it yet"):
        leases.seat(lease.incarnation + 1)


def test_a_store_that_was_killed_comes_back_on_its_directory(cluster: Cluster) -> None:
    lease = cluster.join("a")
    assert cluster.create(lease, SHARD).store == 1
    cluster.push(lease, SHARD, 1)
    cluster.stores[1].kill()
    with pytest.raises(LayerwiseError):
        cluster.push(lease, SHARD, 2)
    cluster.start(1)
    assert cluster.until(lambda: _attempt(cluster, lease, 1)).version == 1
    assert cluster.push(lease, SHARD, 2).applied
    assert cluster.value(SHARD) == (2, 2.0)


def _attempt(cluster: Cluster, lease: JoinReply, sequence: int) -> PushReply | None:
    try:
        return cluster.push(lease, SHARD, sequence)
    except UnreachableError:
        return None


def test_a_join_waits_for_the_stores_of_its_layer_alone(cluster: Cluster) -> None:
    first = cluster.join("a")
    cluster.create(first, SHARD)
    cluster.stores[1].kill()
    cluster.master.leave(first.incarnation)
    with pytest.raises(UnreachableError, match="layer 1 waits for store 1"):
        cluster.master.join("b")
    assert cluster.master.join("c").layer == 2
    cluster.start(1)
    cluster.until(lambda: cluster.status().stores[0].report_age < 0.1)
    assert cluster.join("b").next_batch == 0


def test_with_certificates_stores_and_slaves_know_each_other_by_their_roles(tmp_path: Path) -> None:
    own, slave = (identity(tmp_path / role.value, role) for role in (Role.MASTER, Role.SLAVE))
    settings = "cluster.stores=1", "cluster.heartbeat_seconds=0.2"
    with served(tmp_path / "state", *settings, identity=own, caller=slave) as master:
        stray = RunningStore(master, tmp_path / "stray", tls=tmp_path / "slave")
        with pytest.raises(ConfigError, match="store"):
            stray.running.result(DEADLINE)
        stray.kill()
        store = RunningStore(
            master, tmp_path / "store-1", tls=write_certificate(tmp_path / "store", Role.STORE)
        )
        try:
            lease = _patiently(lambda: master.join("a"))
            place = master.call(PLACE, PlaceRequest(lease.incarnation, SHARD, 4))
            header, pieces = creation([0.0], incarnation=lease.incarnation)
            with _client(master, place.address, lease, slave.call(Role.STORE)) as client:
                assert _patiently(lambda: send(client, header, pieces)).applied
            with (
                _client(master, place.address, lease, slave.call(Role.MASTER)) as client,
                pytest.raises(LayerwiseError, match="role"),
            ):
                send(client, header, pieces)
        finally:
            store.kill()


@contextlib.contextmanager
def _client(master: Served, address: str, lease: JoinReply, tls: Tls) -> Iterator[DataClient]:
    client = DataClient(lambda: split_address(address), master.shown(lease.incarnation), tls)
    try:
        yield client
    finally:
        client.drop()


def _patiently(attempt: Callable[[], Result]) -> Result:
    """Try again while the store has not joined, or has not been told of the leases."""
    deadline = time.monotonic() + DEADLINE
    while True:
        with contextlib.suppress(UnreachableError):
            return attempt()
        assert time.monotonic() < deadline


def test_slaves_wait_until_all_stores_have_joined(tmp_path: Path) -> None:
    settings = "cluster.stores=2", "cluster.heartbeat_seconds=0.2"
    with served(tmp_path / "state", *settings) as master:
        store = RunningStore(master, tmp_path / "store")
        try:
            with pytest.raises(UnreachableError, match="of 2 stores"):
                master.join("a")
        finally:
            store.kill()


def test_a_run_takes_no_more_stores_and_no_store_of_another_run(cluster: Cluster, tmp_path: Path) -> None:
    spare = RunningStore(cluster.master, tmp_path / "spare")
    with pytest.raises(RefusedError, match="has its 2 stores"):
        spare.running.result(DEADLINE)
    spare.kill()
    with served(tmp_path / "other", "cluster.stores=2", "cluster.heartbeat_seconds=0.2") as other:
        cluster.stores[2].kill()
        stray = RunningStore(other, tmp_path / "store-2")
        with pytest.raises(RefusedError, match="holds another run"):
            stray.running.result(DEADLINE)
        stray.kill()
    cluster.start(2)


def test_a_second_process_with_a_stores_directory_takes_over(cluster: Cluster) -> None:
    process = cluster.stores[2].process
    process._session, session = "a newer process", process._session
    cluster.until(
        lambda: cluster.master.master.run.stores._members[1].session == "a newer process"  # type: ignore[union-attr]
    )
    process._session = session
    with pytest.raises(FencedError, match="another process is store 2"):
        cluster.stores[2].running.result(DEADLINE)


def test_a_master_that_keeps_the_shards_has_no_stores(tmp_path: Path) -> None:
    with served(tmp_path / "state") as master:
        store = RunningStore(master, tmp_path / "store")
        with pytest.raises(RefusedError, match=r"keeps this run's shards.*cluster\.stores"):
            store.running.result(DEADLINE)
        store.kill()


def test_a_snapshot_is_taken_and_put_back_over_all_stores(cluster: Cluster) -> None:
    def call(method: Method[Any, Any], request: object) -> Any:
        return control.call(cluster.master.channel, method, request, shown=cluster.master.operator)

    lease = cluster.join("a")
    shards = "1/weights", "1/gradient"
    assert [cluster.create(lease, shard).store for shard in shards] == [1, 2]
    for shard in shards:
        cluster.push(lease, shard, 1)
    kept = call(methods.SNAPSHOT, SnapshotRequest()).snapshot
    assert kept.versions == dict.fromkeys(shards, 1)
    assert kept.nbytes > 0
    for shard in shards:
        cluster.push(lease, shard, 2)
    reply = call(methods.ROLLBACK, RollbackRequest(kept.number))
    assert reply.fenced == 1
    assert [cluster.value(shard) for shard in shards] == [(1, 1.0)] * 2
    with pytest.raises(FencedError):
        cluster.push(lease, "1/weights", 3)
    again = cluster.join("a")
    assert again.next_batch == 1
    assert cluster.push(again, "1/weights", 1).version == 2
    # The state after the rollback is a snapshot too.
    found = call(methods.SNAPSHOTS, SnapshotsRequest()).snapshots
    assert [(each.number, each.damage) for each in found] == [(1, ""), (2, "")]
