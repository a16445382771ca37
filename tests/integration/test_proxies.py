"""Proxies of the environment: they serve the world outside a cluster, and no process of one asks them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.integration.processes import QUICK, Cli, HandMade

# grpcio reads these in either case, and so does urllib.
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
BASIC = ["--set", "cluster.profile=basic"]


@pytest.fixture
def proxy(cli: Cli) -> Iterator[socket.socket]:
    """The proxy of the whole environment; it answers nobody, and keeps those who come."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        cli.environment.update(dict.fromkeys(VARIABLES, address))
        # Nothing is left out.
        cli.environment.update(no_proxy="", NO_PROXY="")
        yield listening


def nobody_came(proxy: socket.socket) -> bool:
    """Whether no connection waits to be accepted."""
    proxy.settimeout(0)
    with pytest.raises(BlockingIOError):
        proxy.accept()
    return True


def test_a_run_and_its_commands_ask_no_proxy(cli: Cli, proxy: socket.socket) -> None:
    done = cli.run("train", "--json", "--run-dir", "run", *BASIC, *QUICK, "--set", "run.batches=40")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["batches"] == 40
    assert cli.run("open", "run").returncode == 0
    assert nobody_came(proxy)


def test_a_cluster_by_hand_with_a_store_asks_no_proxy(
    cli: Cli, by_hand: HandMade, proxy: socket.socket
) -> None:
    by_hand.master(*BASIC, *QUICK, "--set", "run.batches=40", "--set", "cluster.stores=1")
    by_hand.store(1)
    slaves = [by_hand.slave() for _ in range(3)]
    for slave in slaves:
        _, err = slave.communicate(timeout=120)
        assert slave.returncode == 0, err
    assert [seat["state"] for seat in by_hand.status()["seats"]] == ["done"] * 3
    doctor = cli.run("doctor", "--master", by_hand.address)
    assert doctor.returncode == 0, doctor.stdout
    assert nobody_came(proxy)
