"""Links with latency: `python -m benchmarks.delaying SECONDS NAMESPACE ...` joins network namespaces.

A substitute for netem on kernels without it. Each namespace gets a TUN device `eth0`. This process reads its
packets and, after SECONDS, delivers each to the namespace that the last byte of the destination address
numbers, counted from 1. Packets are neither lost nor reordered. The process ends with its standard input.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import selectors
import struct
import sys
import time
from collections import deque

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
DEVICE = "eth0"
# The largest packet of a TUN device; large packets keep the work of this process small.
MTU = 65_000


def open_devices(names: list[str]) -> list[int]:
    """Create a TUN device in every namespace, and return the open files; closing one removes its device."""
    libc = ctypes.CDLL(None, use_errno=True)
    devices = []
    for name in names:
        with open(f"/var/run/netns/{name}", "rb") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"{name}: cannot be entered")
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        devices.append(device)
    return devices


def destination(packet: bytes, machines: int) -> int | None:
    """Return the number of the machine that an IPv4 packet is for; None for other packets or machines."""
    if len(packet) < 20 or packet[0] >> 4 != 4 or not 1 <= packet[19] <= machines:
        return None
    return packet[19] - 1


def forward(devices: list[int], seconds: float) -> None:
    """Deliver packets until standard input ends."""
    waiting: deque[tuple[float, int, bytes]] = deque()
    with selectors.DefaultSelector() as selector:
        for device in [*devices, sys.stdin.fileno()]:
            selector.register(device, selectors.EVENT_READ)
        while True:
            timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            for key, _ in selector.select(timeout):
                if key.fd == sys.stdin.fileno():
                    return
                packet = os.read(key.fd, MTU + 1)
                to = destination(packet, len(devices))
                if to is not None:
                    waiting.append((time.monotonic() + seconds, devices[to], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, device, packet = waiting.popleft()
                os.write(device, packet)


if __name__ == "__main__":
    devices = open_devices(sys.argv[2:])
    print("joined", flush=True)
    forward(devices, float(sys.argv[1]))
