"""Machines with firewalls and address translation between them, made of network namespaces."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from benchmarks import namespaces
from benchmarks.namespaces import PREFIX, leftovers, remove, run
from common.errors import RefusedError

# Files that `ip netns exec` puts in the place of those in /etc.
_ETC = Path("/etc/netns")
# Message of netfilter's conntrack that deletes every entry: type and flags, then family and version.
_DELETE_ALL = struct.pack("=LHHLLBBH", 20, (1 << 8) | 2, 1 | 4, 1, 0, socket.AF_UNSPEC, 0, 0)
_FORGET = f"""
import socket
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
    netlink.bind((0, 0))
    netlink.send({_DELETE_ALL!r})
    # An acknowledgement: the length, type 2, flags, number and sender, then the error's number.
    assert netlink.recv(64)[16:20] == bytes(4)
"""


class Sites:
    """Machines of given names, joined by links of two.

    Attributes:
        machines: names of the machines.

    Raises:
        RefusedError: this machine does not allow namespaces.
    """

    def __init__(self, *machines: str) -> None:
        self.machines = machines
        self._links = 0

    def __enter__(self) -> Self:
        old = leftovers()
        remove(old)
        for name in old:
            shutil.rmtree(_ETC / name, ignore_errors=True)
        try:
            for machine in self.machines:
                run("ip", "netns", "add", self._name(machine))
                run("ip", "-n", self._name(machine), "link", "set", "lo", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        existing = {line.split()[0] for line in run("ip", "netns", "list").splitlines()}
        for machine in self.machines:
            shutil.rmtree(_ETC / self._name(machine), ignore_errors=True)
            if self._name(machine) in existing:
                remove([self._name(machine)])

    def _name(self, machine: str) -> str:
        return f"{PREFIX}{os.getpid()}-{machine}"

    def inside(self, machine: str) -> list[str]:
        """Return the prefix of commands on a machine."""
        return ["ip", "netns", "exec", self._name(machine)]

    def link(self, one: str, address: str, other: str, other_address: str) -> None:
        """Join two machines by interfaces with addresses ADDRESS/BITS."""
        self._links += 1
        ends = (one, f"{other}{self._links}", address), (other, f"{one}{self._links}", other_address)
        (_, interface, _), (_, other_interface, _) = ends
        run(
            *("ip", "-n", self._name(one), "link", "add", interface, "type", "veth"),
            *("peer", "name", other_interface, "netns", self._name(other)),
        )
        for machine, device, given in ends:
            # Without `nodad` an address of IPv6 would be of no use for a second.
            fresh = ["nodad"] if ":" in given else []
            run("ip", "-n", self._name(machine), "address", "add", given, "dev", device, *fresh)
            run("ip", "-n", self._name(machine), "link", "set", device, "up")

    def route(self, machine: str, via: str) -> None:
        """Give a machine a default route."""
        run("ip", "-n", self._name(machine), "route", "add", "default", "via", via)

    def set_up_router(self, machine: str, rules: str = "") -> None:
        """Have a machine pass packets on, by rules in the language of nftables."""
        self.set_number(machine, "net.ipv4.ip_forward", 1)
        run(*self.inside(machine), "nft", "-f", "-", told=rules)

    def set_number(self, machine: str, name: str, value: int) -> None:
        """Set a number of a machine's kernel."""
        run(*self.inside(machine), "sysctl", "-qw", f"{name}={value}")

    def drop_ipv4(self, machine: str) -> None:
        """Take every address of IPv4 off a machine, loopback's too."""
        run("ip", "-n", self._name(machine), "-4", "address", "flush", "dev", "lo")

    def name(self, hosts: str) -> None:
        """Give every machine a file /etc/hosts."""
        for machine in self.machines:
            folder = _ETC / self._name(machine)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text(hosts)

    def forget(self, machine: str) -> None:
        """Have a machine forget every connection that passes through it, as a restart would."""
        run(*self.inside(machine), sys.executable, "-S", "-c", _FORGET)


def check() -> None:
    """Skip the test where this machine has no namespaces, or none with firewalls."""
    try:
        namespaces.check()
        with Sites("probe") as sites:
            sites.set_up_router("probe", rules("output", "ct state invalid drop"))
    except (RefusedError, FileNotFoundError) as error:
        pytest.skip(f"network namespaces with nftables: {error}")


def rules(hook: str, *lines: str, kind: str = "filter") -> str:
    """Build a table of nftables for packets of IPv4, with one chain at a hook."""
    name = re.sub(r"\W", "", f"at_{hook}")
    priority = {"prerouting": -100, "postrouting": 100}.get(hook, 0)
    body = "\n".join(lines)
    return (
        f"table ip {name} {{\nchain {name} {{\ntype {kind} hook {hook} priority {priority};\n{body}\n}}\n}}\n"
    )
