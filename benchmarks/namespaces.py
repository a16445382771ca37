"""Machines made of network namespaces, on links of limited rate (`Network`) or with delay (`Far`).

`Alone` is a single machine, whose loopback interface counts the bytes between its processes.

Needs root and iproute2 (`ip`, `tc`). Every name contains a prefix and the process id, so that leftovers of a
killed process are removed by the next one, but never the namespaces of a living one.
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
# A queue like that of a switch's port; the burst lets a segment of 64 KiB through whole.
BURST, LATENCY = "128kb", "20ms"


def check() -> None:
    """Check for the rights and tools to create namespaces.

    Raises:
        RefusedError: namespaces cannot be created; the message says what is missing.
    """
    if os.geteuid() != 0:
        raise RefusedError("network namespaces: only root may create them; run this command as root")
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise RefusedError(f"{tool}: not found; install iproute2")
    name = f"{PREFIX}{os.getpid()}-probe"
    run("ip", "netns", "add", name)
    run("ip", "netns", "del", name)


def leftovers() -> list[str]:
    """List the namespaces of dead processes."""
    names = [line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.startswith(PREFIX)]
    return [name for name in names if not psutil.pid_exists(int(name.removeprefix(PREFIX).split("-")[0]))]


def remove(names: list[str]) -> None:
    """Remove namespaces with the devices in them; processes inside are not stopped."""
    for name in names:
        run("ip", "netns", "del", name)


def run(*command: str, told: str = "") -> str:
    """Run a command, and return what it prints; `told` is its standard input.

    Raises:
        RefusedError: the command failed; the message has its error.
    """
    done = subprocess.run(command, capture_output=True, text=True, input=told)
    if done.returncode:
        raise RefusedError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Network:
    """Machines 0 to `machines` - 1; every link is full duplex at `mbit` Mbit/s.

    The switch is a namespace too, so nothing of the network is visible outside.

    Attributes:
        interface: interface by which machines reach each other.

    Raises:
        RefusedError: this machine does not allow namespaces.
    """

    interface = DEVICE

    def __init__(self, machines: int, mbit: int) -> None:
        self._mbit = mbit
        self._switch = f"{PREFIX}{os.getpid()}-switch"
        self._names = [f"{PREFIX}{os.getpid()}-{machine}" for machine in range(machines)]

    def __enter__(self) -> Self:
        remove(leftovers())
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
        """Return a machine's address."""
        return f"10.77.0.{machine + 1}"

    def inside(self, machine: int) -> list[str]:
        """Return the prefix of commands on a machine; the process id stays the command's."""
        return ["ip", "netns", "exec", self._names[machine]]

    def traffic(self, machine: int) -> tuple[int, int]:
        """Return the bytes sent and received by a machine over the link."""
        ports = json.loads(run("ip", "-n", self._switch, "-json", "-stats", "link", "show"))
        stats = next(port["stats64"] for port in ports if port["ifname"] == f"port{machine}")
        return stats["rx"]["bytes"], stats["tx"]["bytes"]

    def _make(self) -> None:
        run("ip", "netns", "add", self._switch)
        in_switch = ("ip", "-n", self._switch, "link")
        run(*in_switch, "add", "bridge", "type", "bridge")
        run(*in_switch, "set", "bridge", "up")
        for machine, name in enumerate(self._names):
            port = f"port{machine}"
            run("ip", "netns", "add", name)
            run(*in_switch, "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            run(*in_switch, "set", port, "master", "bridge", "up")
            run("ip", "-n", name, "address", "add", f"{self.address(machine)}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            self._limit_rate(name, "eth0")
            self._limit_rate(self._switch, port)

    def _limit_rate(self, name: str, interface: str) -> None:
        limits = ("rate", f"{self._mbit}mbit", "burst", BURST, "latency", LATENCY)
        run("tc", "-n", name, "qdisc", "add", "dev", interface, "root", "tbf", *limits)

    def _remove(self) -> None:
        existing = {line.split()[0] for line in run("ip", "netns", "list").splitlines()}
        remove([name for name in [*self._names, self._switch] if name in existing])


class Far(Network):
    """Machines with a delay of `seconds` in every direction, and otherwise loopback's speed."""

    def __init__(self, machines: int, seconds: float) -> None:
        super().__init__(machines, 0)
        self._seconds = seconds
        self._carrier: subprocess.Popen[str] | None = None

    def traffic(self, machine: int) -> tuple[int, int]:
        """Return the bytes sent and received by a machine."""
        (device,) = json.loads(
            run("ip", "-n", self._names[machine], "-json", "-stats", "link", "show", DEVICE)
        )
        return device["stats64"]["tx"]["bytes"], device["stats64"]["rx"]["bytes"]

    def _make(self) -> None:
        for name in self._names:
            run("ip", "netns", "add", name)
        command = [sys.executable, "-m", "benchmarks.delaying", str(self._seconds), *self._names]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._carrier = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        assert self._carrier
        assert self._carrier.stdout
        if not self._carrier.stdout.readline():
            raise RefusedError("/dev/net/tun: the machines could not be joined; load the kernel module tun")
        for machine, name in enumerate(self._names):
            run("ip", "-n", name, "address", "add", f"{self.address(machine)}/24", "dev", DEVICE)
            run("ip", "-n", name, "link", "set", DEVICE, "mtu", str(MTU), "up")
            run("ip", "-n", name, "link", "set", "lo", "up")

    def _remove(self) -> None:
        if self._carrier and self._carrier.stdin:
            self._carrier.stdin.close()
            self._carrier.wait()
        super()._remove()


class Alone(Network):
    """A single machine: every process is on it, whatever its number, and speaks through loopback."""

    interface = "lo"

    def __init__(self) -> None:
        super().__init__(1, 0)

    def address(self, machine: int) -> str:  # noqa: ARG002 - the interface of `Network`
        """Return the loopback address, the address of every process."""
        return "127.0.0.1"

    def inside(self, machine: int) -> list[str]:  # noqa: ARG002 - the interface of `Network`
        """Return the prefix of commands on the machine."""
        return super().inside(0)

    def traffic(self, machine: int) -> tuple[int, int]:  # noqa: ARG002 - the interface of `Network`
        """Return the bytes sent and received by all processes together."""
        (device,) = json.loads(
            run("ip", "-n", self._names[0], "-json", "-stats", "link", "show", self.interface)
        )
        return device["stats64"]["tx"]["bytes"], device["stats64"]["rx"]["bytes"]

    def _make(self) -> None:
        run("ip", "netns", "add", self._names[0])
        run("ip", "-n", self._names[0], "link", "set", "lo", "up")
