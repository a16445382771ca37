"""A cluster of two machines with certificates, by the commands of docs/tls.md.

A machine is a network namespace and a folder. The cluster is of profile `basic`, so that slaves listen beyond
their machines too, and is smaller than the page's.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import namespaces
from benchmarks.namespaces import Network
from common.errors import RefusedError
from tests.docs.blocks import DOCS, Command, read_blocks
from tests.integration.processes import Cli

MACHINES = {"one": 0, "two": 1}
SMALL = [
    "--set", "cluster.profile=basic", "--set", "run.batches=120", "--set", "cluster.heartbeat_seconds=0.4",
    "--set", "cluster.misses=10",
]  # fmt: skip
COMMANDS = list(read_blocks(DOCS / "tls.md")[0].commands())


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        namespaces.check()
    except RefusedError as error:
        pytest.skip(str(error))
    with Network(len(MACHINES), 1000) as running:
        yield running


class Machines:
    """Runs the page's commands on the machines that their prompts name."""

    def __init__(self, cli: Cli, network: Network) -> None:
        self._cli = cli
        self._network = network
        self.started: dict[str, list[subprocess.Popen[str]]] = {"master": [], "slave": []}
        for name in MACHINES:
            self.folder(name).mkdir()

    def folder(self, machine: str) -> Path:
        """Folder of a machine's files."""
        return self._cli.folder / machine

    def run(self, command: Command) -> subprocess.CompletedProcess[str] | None:
        """Run a command to its end; a master or slave goes on."""
        program, *words = command.words
        words = [word.replace("one:", f"{self._network.address(MACHINES['one'])}:") for word in words]
        folder, inside = self.folder(command.place), self._network.inside(MACHINES[command.place])
        if program == "scp":
            machine, _, name = words[-1].partition(":")
            shutil.copytree(folder / words[-2], self.folder(machine) / name)
            return None
        assert program == "layerwise"
        output = words[words.index(">") + 1] if ">" in words else None
        words = words[: words.index(">")] if output else words
        if words[0] in self.started:
            small = SMALL if words[0] == "master" else []
            process = self._cli.start(*words, *small, cwd=folder, inside=inside)
            self.started[words[0]].append(process)
            if words[0] == "master":
                self._cli.wait_for(process, "listening on")
            return None
        done = self._cli.run(*words, cwd=folder, inside=inside)
        assert done.returncode == 0, (command, done.stderr)
        if output:
            (folder / output).write_text(done.stdout)
        return done

    def end(self) -> None:
        """Interrupt what still runs."""
        for process in (*self.started["slave"], *self.started["master"]):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(20)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_of_two_machines_trains_by_the_pages_commands(cli: Cli, network: Network) -> None:
    assert [command.text for command in COMMANDS[:1]] == ["pip install 'layerwise[tls]'"]
    machines = Machines(cli, network)
    said = {}
    try:
        for command in COMMANDS[1:]:
            said[command.words[1]] = machines.run(command)
            if command.words[1] == "evaluate":
                assert [slave.wait(60) for slave in machines.started["slave"]] == [0, 0, 0]
        # A neighbour in the clear, and one without the authority, are refused beyond the machine too.
        address = f"{network.address(0)}:50051"
        plain = cli.run("status", "--master", address, inside=network.inside(1))
        assert plain.returncode == 3
        assert "speaks TLS alone; give the folder of a certificate by --tls DIR" in plain.stderr
    finally:
        machines.end()
    summary = json.loads((machines.folder("one") / "runs" / "by-hand" / "summary.json").read_text())
    assert summary["batches"] == 120
    assert said["snapshot"] is not None
    # Every machine has sent more than a megabyte: weights, activations and gradients went over the link.
    assert all(min(network.traffic(machine)) > 1 << 20 for machine in MACHINES.values())
