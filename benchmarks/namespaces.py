"""Machines made of network namespaces: each on a link of its own, slow (`Network`) or long (`Far`).

Needs root and iproute2 (`ip`, `tc`). Every name has a prefix of its own and the process' id in it: what an
earlier process left behind when it was killed is removed by the next one, what a living one uses is not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import TracebackType
from typing import Self

import psutil

from benchmarks.delaying import DEVICE, MTU
from common.errors import RefusedError

PREFIX = "layerwise-links-"
# A queue as a switch's port has one; a burst that lets a segment of 64 KiB through whole.
BURST, LATENCY = "128kb", "20ms"


def check() -> None:
    """See that namespaces can be made here.

    Raises:
        RefusedError: they cannot; says what is missing.
    """
    if os.geteuid() != 0:
        raise RefusedError("network namespaces: only root may make them; run this as root")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise RefusedError(f"{tool}: not found; install iproute2")
    name = f"{PREFIX}{os.getpid()}-probe"
    _do("ip", "netns", "add", name)
    _do("ip", "netns", "del", name)


def left_behind() -> list[str]:
    """Namespaces of processes that live no more."""
    names = [line.split()[0] for line in _do("ip", "netns", "list").splitlines() if line.startswith(PREFIX)]
    return [name for name in names if not psutil.pid_exists(int(name.removeprefix(PREFIX).split("-")[0]))]


def remove(names: list[str]) -> None:
    """Remove namespaces, and with them all that is in them but processes."""
    for name in names:
        _do("ip", "netns", "del", name)


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RefusedError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Network:
    """Machines 0 to `machines` - 1; each sends and receives at `mbit` Mbit/s, both at a time.

    The switch is a namespace, too: nothing of it is to be seen, or in anyone's way, outside.

    Raises:
        RefusedError: this machine does not let us make it.
    """

    def __init__(self, machines: int, mbit: int) -> None:
        self._mbit = mbit
        self._switch = f"{PREFIX}{os.getpid()}-switch"
        self._names = [f"{PREFIX}{os.getpid()}-{machine}" for machine in range(machines)]

    def __enter__(self) -> Self:
        remove(left_behind())
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, machine: int) -> str:
        """A machine's address, for the others."""
        return f"10.77.0.{machine + 1}"

    def inside(self, machine: int) -> list[str]:
        """What a command has to begin with to run on that machine; it keeps its process id."""
        return ["ip", "netns", "exec", self._names[machine]]

    def traffic(self, machine: int) -> tuple[int, int]:
        """Bytes that a machine has sent and received over its link."""
        ports = json.loads(_do("ip", "-n", self._switch, "-json", "-stats", "link", "show"))
        stats = next(port["stats64"] for port in ports if port["ifname"] == f"port{machine}")
        return stats["rx"]["bytes"], stats["tx"]["bytes"]

    def _make(self) -> None:
        _do("ip", "netns", "add", self._switch)
        in_switch = ("ip", "-n", self._switch, "link")
        _do(*in_switch, "add", "bridge", "type", "bridge")
        _do(*in_switch, "set", "bridge", "up")
        for machine, name in enumerate(self._names):
            port = f"port{machine}"
            _do("ip", "netns", "add", name)
            _do(*in_switch, "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _do(*in_switch, "set", port, "master", "bridge", "up")
            _do("ip", "-n", name, "address", "add", f"{self.address(machine)}/24", "dev", "eth0")
            _do("ip", "-n", name, "link", "set", "eth0", "up")
            _do("ip", "-n", name, "link", "set", "lo", "up")
            self._slow(name, "eth0")
            self._slow(self._switch, port)

    def _slow(self, name: str, interface: str) -> None:
        limits = ("rate", f"{self._mbit}mbit", "burst", BURST, "latency", LATENCY)
        _do("tc", "-n", name, "qdisc", "add", "dev", interface, "root", "tbf", *limits)

    def _remove(self) -> None:
        there = {line.split()[0] for line in _do("ip", "netns", "list").splitlines()}
        remove([name for name in [*self._names, self._switch] if name in there])


class Far(Network):
    """Machines `seconds` away from each other, each way, and as near as this machine otherwise."""

    def __init__(self, machines: int, seconds: float) -> None:
        super().__init__(machines, 0)
        self._seconds = seconds
        self._carrier: subprocess.Popen[str] | None = None

    def traffic(self, machine: int) -> tuple[int, int]:
        """Bytes that a machine has sent and received."""
        (device,) = json.loads(
            _do("ip", "-n", self._names[machine], "-json", "-stats", "link", "show", DEVICE)
        )
        return device["stats64"]["tx"]["bytes"], device["stats64"]["rx"]["bytes"]

    def _make(self) -> None:
        for name in self._names:
            _do("ip", "netns", "add", name)
        command = [sys.executable, "-m", "benchmarks.delaying", str(self._seconds), *self._names]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._carrier = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        assert self._carrier
        assert self._carrier.stdout
        if not self._carrier.stdout.readline():
            raise RefusedError("/dev/net/tun: the machines could not be joined; is there such a device?")
        for machine, name in enumerate(self._names):
            _do("ip", "-n", name, "address", "add", f"{self.address(machine)}/24", "dev", DEVICE)
            _do("ip", "-n", name, "link", "set", DEVICE, "mtu", str(MTU), "up")
            _do("ip", "-n", name, "link", "set", "lo", "up")

    def _remove(self) -> None:
        if self._carrier and self._carrier.stdin:
            self._carrier.stdin.close()
            self._carrier.wait()
        super()._remove()
