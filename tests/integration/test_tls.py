"""Clusters with certificates: whole runs in both profiles, and processes started by hand."""

from __future__ import annotations

import json

import pytest

from tests.integration.processes import QUICK, Cli, HandMade, until

SMALL = [*QUICK, "--set", "network.cuts=[1]", "--set", "run.batches=120", "--set", "run.evaluate_every=120"]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["light", "basic"])
def test_a_cluster_trains_over_tls(cli: Cli, profile: str) -> None:
    assert cli.run("certificates", "tls", "--master", "localhost", "--slaves", "2").returncode == 0
    given = [*SMALL, "--set", f"cluster.profile={profile}", "--tls", "tls", "--run-dir", "run", "--json"]
    summary = cli.json("train", *given)
    assert summary["batches"] == 120
    assert summary["restarts"] == summary["lost_batches"] == 0


@pytest.mark.slow
def test_processes_follow_renewed_certificates_and_refuse_strangers(cli: Cli, by_hand: HandMade) -> None:
    assert cli.run("certificates", "tls", "--master", "localhost", "--slaves", "2").returncode == 0
    endless = [*SMALL, "--set", "run.batches=1000000", "--set", "cluster.profile=basic"]
    by_hand.master(*endless, "--tls", "tls/master")
    slaves = [by_hand.slave("--tls", f"tls/slave-{number}") for number in (1, 2)]
    reads = ["--master", by_hand.address, "--tls", "tls/reader"]

    def batches() -> int:
        return int(cli.json("status", *reads, "--json")["batches"])

    until(lambda: batches() > 0)
    assert cli.run("certificates", "tls", "--renew").returncode == 0
    before = batches()
    # The third slave shows a new certificate to old processes, and takes no seat.
    by_hand.slave("--tls", "tls/slave-1")
    until(lambda: cli.json("status", *reads, "--json")["waiting_slaves"] == 1)
    slaves[0].kill()
    slaves[0].wait()
    until(lambda: batches() > before)
    plain = cli.run("status", "--master", by_hand.address)
    assert (plain.returncode, plain.stdout) == (3, "")
    assert "speaks TLS alone" in plain.stderr
    refused = cli.run("rollback", *reads)
    assert refused.returncode == 3
    assert "the certificate of reader has the role reader here" in refused.stderr
    assert cli.run("snapshot", "--master", by_hand.address, "--tls", "tls/operator").returncode == 0
    checked = cli.run("doctor", "--master", by_hand.address, "--tls", "tls/slave-2", "--json")
    states = {each["name"]: each["state"] for each in json.loads(checked.stdout)}
    assert checked.returncode == 0
    assert states["certificates"] == states["master"] == states["way back"] == states["agreement"] == "ok"
