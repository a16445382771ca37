"""Clusters on networks as they are: firewalls, address translation, proxies, and IPv6 alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.integration import sites as networks
from tests.integration.processes import Cli, until
from tests.integration.sites import Sites, rules

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PORT, DATA = 50051, 50052
# Leases that crowded cores do not end.
STEADY = [
    "--set", "run.batch_size=32", "--set", "cluster.heartbeat_seconds=0.5", "--set", "cluster.misses=20",
]  # fmt: skip
# Everything that starts a connection, but its answers.
NEW = "ct state new"


class Cluster:
    """A master and slaves on the machines of a network."""

    def __init__(self, cli: Cli, sites: Sites) -> None:
        self.cli = cli
        self.sites = sites
        self._started: list[subprocess.Popen[str]] = []
        (cli.folder / "run.toml").touch()

    def start(self, machine: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a command on a machine."""
        process = self.cli.start(*arguments, inside=self.sites.inside(machine))
        self._started.append(process)
        return process

    def run(self, machine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine to its end."""
        return self.cli.run(*arguments, inside=self.sites.inside(machine))

    def master(self, machine: str, listen: str, *arguments: str, batches: int = 120) -> None:
        """Start a master, and wait until it listens."""
        process = self.start(
            machine, "master", "run.toml", f"--listen={listen}", f"--bulk-port={DATA}", "--state-dir=state",
            *STEADY, "--set", f"run.batches={batches}", *arguments,
        )  # fmt: skip
        self.cli.wait_for(process, "listening on")

    def slave(self, machine: str, master: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a slave that may listen beyond its machine in the clear."""
        token = "--join-token-file=state/join.token"
        return self.start(machine, "slave", f"--master={master}", "--insecure", token, *arguments)

    def seated(self, machine: str, master: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a slave, and wait until it has a layer."""
        process = self.slave(machine, master, *arguments)
        self.cli.wait_for(process, "from batch", "stderr")
        return process

    def status(self, machine: str, *arguments: str) -> dict[str, Any]:
        """Ask the master on a machine for the state of the run."""
        done = self.run(machine, "status", f"--master=localhost:{PORT}", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def states(self, machine: str, *arguments: str) -> list[str]:
        """Ask the master on a machine for the states of the layers."""
        return [seat["state"] for seat in self.status(machine, *arguments)["seats"]]

    def events(self) -> list[dict[str, Any]]:
        """Read the master's events."""
        text = (self.cli.folder / "state" / "events.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def end(self) -> None:
        """Interrupt what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self._started:
            process.wait(30)


@contextmanager
def cluster(cli: Cli, *machines: str) -> Iterator[Cluster]:
    """A cluster on machines that are not joined yet."""
    networks.check()
    with ExitStack() as stack:
        found = Cluster(cli, stack.enter_context(Sites(*machines)))
        stack.callback(found.end)
        yield found


def finished(*processes: subprocess.Popen[str]) -> None:
    """Wait until processes have ended well."""
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err


def join_by_box(sites: Sites) -> None:
    """Put a box between the hub and two machines; packets to them go to the box, and may vanish there."""
    sites.link("hub", "10.1.0.1/24", "box", "10.1.0.2/24")
    sites.route("hub", "10.1.0.2")
    for number, machine in enumerate(("one", "two"), 1):
        sites.link(machine, f"10.9.{number}.2/24", "box", f"10.9.{number}.1/24")
        sites.route(machine, f"10.9.{number}.1")


def test_slaves_that_can_only_dial_out_train_in_light_and_are_told_so_in_basic(cli: Cli) -> None:
    """A dropped SYN used to leave the whole run standing still, without a word."""
    with cluster(cli, "hub", "box", "one", "two") as found:
        join_by_box(found.sites)
        hide = rules("postrouting", "ip daddr 10.1.0.0/24 masquerade", kind="nat")
        found.sites.set_up_router("box", hide + rules("forward", f"ip daddr 10.9.0.0/16 {NEW} drop"))
        found.master("hub", f"0.0.0.0:{PORT}", "--insecure")
        # Pages that nobody can scrape.
        pages = "--metrics=0.0.0.0:0"
        finished(*(found.slave(each, f"10.1.0.1:{PORT}", pages) for each in ("one", "two", "one")))
        assert found.states("hub") == ["done"] * 3
        found.end()

        found.master(
            "hub", f"0.0.0.0:{PORT}", "--insecure", "--set", "cluster.profile=basic", "--state-dir=other"
        )
        token = "--join-token-file=other/join.token"
        refused = found.run("one", "slave", f"--master=10.1.0.1:{PORT}", "--insecure", token)
        assert refused.returncode == 3
        last = refused.stderr.splitlines()[-1]
        assert re.search(
            r"the master at 10\.1\.0\.1:50051 cannot connect to this slave at 10\.9\.1\.2:\d+", last
        )
        assert "cluster.profile = light" in last
        doctor = found.run("one", "doctor", f"--master=10.1.0.1:{PORT}", token)
        assert "start the master with cluster.profile = light" in " ".join(doctor.stdout.split())


def test_neighbours_between_which_a_firewall_stands_say_so_and_give_up(cli: Cli) -> None:
    with cluster(cli, "hub", "one", "two") as found:
        sites = found.sites
        for number, machine in enumerate(("one", "two"), 1):
            sites.link("hub", f"10.{number}.0.1/24", machine, f"10.{number}.0.2/24")
            sites.route(machine, f"10.{number}.0.1")
        sites.set_up_router("hub", rules("forward", "drop"))
        settings = "--set", "cluster.profile=basic", "--set", "network.layers=2"
        found.master("hub", f"0.0.0.0:{PORT}", "--insecure", *settings)
        slaves = [
            found.seated("one", f"10.1.0.1:{PORT}", "--wait=1"),
            found.seated("two", f"10.2.0.1:{PORT}", "--wait=1"),
        ]
        # The one with layer 1 calls; the first of the two has the layer with more work.
        until(lambda: any(slave.poll() is not None for slave in slaves), 120)
        (lower,) = (slave for slave in slaves if slave.poll() is not None)
        _, err = lower.communicate(timeout=30)
        assert lower.returncode == 3
        last = err.splitlines()[-1]
        assert re.search(r"layer 2 replica 0 at 10\.[12]\.0\.2:\d+: does not answer, and never has in", last)
        assert "With cluster.profile = light slaves dial the master alone" in last


def test_two_sites_with_forwarded_ports_train_in_basic_with_a_store(cli: Cli) -> None:
    """Each site has private addresses of its own, and reaches the other by a box with forwarded ports."""
    with cluster(cli, "hub", "gate", "street", "box", "one", "two") as found:
        sites = found.sites
        # A second interface of the hub leads nowhere.
        sites.link("hub", "192.168.5.2/24", "gate", "192.168.5.1/24")
        sites.route("hub", "192.168.5.1")
        sites.link("hub", "192.168.77.2/24", "street", "192.168.77.3/24")
        sites.link("gate", "10.8.0.1/24", "street", "10.8.0.2/24")
        sites.route("gate", "10.8.0.2")
        sites.set_up_router("street")
        inwards = f"ip daddr 10.8.0.1 tcp dport {PORT}-{DATA + 1} dnat to 192.168.5.2"
        set_up_box(sites, "gate", "192.168.5.0/24", inwards)
        join_site(sites)
        found.master(
            "hub",
            f"0.0.0.0:{PORT}",
            "--insecure",
            "--set",
            "cluster.profile=basic",
            "--set",
            "cluster.stores=1",
        )
        # Without --advertise the store would tell the address by which it reaches the master: loopback.
        store = found.start(
            "hub", "store", f"--master=127.0.0.1:{PORT}", "--state-dir=store", "--insecure",
            f"--listen=0.0.0.0:{DATA + 1}", f"--advertise=10.8.0.1:{DATA + 1}",
        )  # fmt: skip
        found.cli.wait_for(store, "listening on")
        slaves = [
            found.seated(
                machine, f"10.8.0.1:{PORT}", f"--listen=0.0.0.0:{port}", f"--advertise=10.1.0.2:{port}"
            )
            for machine, port in (("one", 6001), ("two", 6002), ("one", 6003))
        ]
        finished(*slaves)
        assert found.states("hub") == ["done"] * 3


def join_site(sites: Sites) -> None:
    """Put two machines behind a box with an address of the street, which forwards ports to them."""
    sites.link("street", "10.1.0.1/24", "box", "10.1.0.2/24")
    sites.route("box", "10.1.0.1")
    for number, machine in enumerate(("one", "two"), 1):
        sites.link(machine, f"10.9.{number}.2/24", "box", f"10.9.{number}.1/24")
        sites.route(machine, f"10.9.{number}.1")
    inwards = [
        f"ip daddr 10.1.0.2 tcp dport {port} dnat to 10.9.{number}.2"
        for number, port in ((1, 6001), (2, 6002), (1, 6003))
    ]
    set_up_box(sites, "box", "10.9.0.0/16", *inwards)


def set_up_box(sites: Sites, box: str, private: str, *inwards: str) -> None:
    """Have a box hide the addresses of a site, and forward ports to it."""
    hide = rules("postrouting", f"ip saddr {private} masquerade", kind="nat")
    sites.set_up_router(box, rules("prerouting", *inwards, kind="nat") + hide)


@pytest.mark.parametrize("profile", ["light", "basic"])
def test_a_box_that_forgets_its_connections_costs_no_lease(cli: Cli, profile: str) -> None:
    """What it forgets vanishes: neither end is told."""
    with cluster(cli, "hub", "box", "one", "two") as found:
        sites = found.sites
        join_by_box(sites)
        # A packet in the middle of a connection that the box does not know is invalid.
        sites.set_up_router("box", rules("forward", "ct state invalid drop"))
        sites.set_number("box", "net.netfilter.nf_conntrack_tcp_loose", 0)
        found.master(
            "hub", f"0.0.0.0:{PORT}", "--insecure", "--set", f"cluster.profile={profile}", batches=4000
        )
        slaves = [found.slave(each, f"10.1.0.1:{PORT}") for each in ("one", "two", "one")]

        until(lambda: found.status("hub")["batches"] > 200)
        sites.forget("box")
        finished(*slaves)
        kinds = [event["event"] for event in found.events()]
        assert "failed" not in kinds
        assert kinds.count("joined") == 3


@pytest.mark.parametrize("profile", ["light", "basic"])
def test_machines_with_ipv6_alone_train_by_names_with_certificates_and_a_store(
    cli: Cli, profile: str
) -> None:
    with cluster(cli, "hub", "one") as found:
        sites = found.sites
        for machine in sites.machines:
            sites.drop_ipv4(machine)
        sites.link("hub", "fd11::1/64", "one", "fd11::2/64")
        sites.name("::1 localhost\nfd11::1 trainer\nfd11::2 worker\n")
        for arguments in (("--master=fd11::1", "--slaves=2"), ("--add=store=store-1",)):
            made = found.run("hub", "certificates", "certificates", *arguments)
            assert made.returncode == 0, made.stderr
        found.master(
            "hub", f"[::]:{PORT}", "--tls=certificates/master", "--set", f"cluster.profile={profile}",
            "--set", "cluster.stores=1",
        )  # fmt: skip
        store = found.start(
            "one", "store", f"--master=trainer:{PORT}", "--state-dir=store", "--tls=certificates/store-1"
        )
        found.cli.wait_for(store, "listening on")
        slaves = [
            found.start(machine, "slave", f"--master={master}:{PORT}", f"--tls=certificates/slave-{number}")
            for number, machine, master in (
                (1, "one", "trainer"),
                (2, "one", "[fd11::1]"),
                (2, "hub", "trainer"),
            )
        ]
        finished(*slaves)
        assert found.states("hub", "--tls=certificates/reader") == ["done"] * 3


def test_a_machine_without_any_ipv4_trains_alone(cli: Cli) -> None:
    with cluster(cli, "hub") as found:
        found.sites.drop_ipv4("hub")
        done = found.run(
            "hub", "train", "--json", "--set", "run.batches=60", "--set", "cluster.profile=basic"
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["batches"] == 60
        refused = found.run("hub", "status", "--master=[fe80::1%lo]:50051")
        assert refused.returncode == 2
        assert "is link-local" in refused.stderr
