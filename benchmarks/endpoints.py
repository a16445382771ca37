"""Server and client for every way of `benchmarks.transfer`.

`python -m benchmarks.endpoints WAY END ADDRESS [FOLDER]`: with a folder of certificates the ways tcp and
layerwise speak TLS, by contexts of one kind. Both ends read orders from standard input, one a line: push or
pull, bytes, repeats. The client answers each order with a line: the seconds of every repeat, from the call
until the push is acknowledged or the pull is complete.
"""

from __future__ import annotations

import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import rpc as torch_rpc

from common import strict_json
from common.config.files import load
from common.credentials import NOBODY
from common.lifecycle import end_with_parent, keep_freed_memory
from common.net import addresses, control
from common.net.access import Role
from common.net.identity import Identity, find_identity
from common.net.tokens import find_joiner
from common.shards.pushes import Header, Operation, PushReply
from common.shards.table import lay_out
from common.shards.working_copy import Push
from common.wire.messages import JoinReply, JoinRequest, Telemetry
from common.wire.methods import JOIN
from slave.network.endpoint import Endpoint
from slave.network.meter import Meter
from slave.network.network import Network
from slave.training.worker import Fetch, Fetched

Once = Callable[[], object]


def orders() -> Iterator[tuple[str, int, int]]:
    """Yield the orders on standard input, until it ends."""
    for line in sys.stdin:
        what, nbytes, repeats = line.split()
        yield what, int(nbytes), int(repeats)


def time_calls(repeats: int, once: Once) -> list[float]:
    """Call a function repeatedly, and return the seconds of every call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - start)
    return seconds


def answer(seconds: list[float]) -> None:
    """Print the seconds for the benchmark to read."""
    print(strict_json.encode(seconds), flush=True)


# --- one raw TCP stream -----------------------------------------------------------------------------------


def _receive(stream: socket.socket, buffer: memoryview) -> None:
    received = 0
    while received < len(buffer):
        count = stream.recv_into(buffer[received:])
        if not count:
            raise ConnectionError("the other end is gone")
        received += count


def tcp_server(address: str, identity: Identity | None = None) -> None:
    """Serve orders over TCP: receive and acknowledge pushes, send pulls."""
    host, port = addresses.split_address(address)
    with socket.create_server((host, port)) as listening:
        print(f"{host}:{listening.getsockname()[1]}", flush=True)
        stream, _ = listening.accept()
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if identity:
        stream = identity.serve().context().wrap_socket(stream, server_side=True)
    token = memoryview(bytearray(1))
    for what, nbytes, repeats in orders():
        buffer = memoryview(bytearray(nbytes))
        for _ in range(repeats):
            _receive(stream, buffer if what == "push" else token)
            stream.sendall(token if what == "push" else buffer)


def tcp_client(address: str, identity: Identity | None = None) -> None:
    """Push and pull over a plain socket, or by Python's `ssl` on one."""
    stream = socket.create_connection(addresses.split_address(address))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if identity:
        stream = identity.call(Role.MASTER).context().wrap_socket(stream)
    token = memoryview(bytearray(1))
    for what, nbytes, repeats in orders():
        buffer = memoryview(bytearray(nbytes))
        sent, received = (buffer, token) if what == "push" else (token, buffer)

        def once(sent: memoryview = sent, received: memoryview = received) -> None:
            stream.sendall(sent)
            _receive(stream, received)

        answer(time_calls(repeats, once))


# --- torch.distributed.rpc --------------------------------------------------------------------------------

_tensors: dict[int, Tensor] = {}


def take(tensor: Tensor) -> None:
    """Receive a push on the server, by RPC."""


def give(nbytes: int) -> Tensor:
    """Return the tensor of a pull from the server, by RPC."""
    return _tensors.setdefault(nbytes, torch.ones(nbytes // 4))


def _rendezvous(address: str, rank: int) -> dict[str, Any]:
    # A file for the rendezvous, so that no port has to be free.
    return {"init_method": f"file://{address}", "rank": rank, "world_size": 2}


def _start_rpc(address: str, rank: int, tcp: bool) -> None:
    # By default, processes of one machine share memory; over TCP they communicate as two machines do.
    ways: dict[str, Any] = {"_transports": ["uv"], "_channels": ["basic"]} if tcp else {}
    options = torch_rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=4, init_method=f"file://{address}", rpc_timeout=60, **ways
    )
    torch_rpc.init_rpc(  # type: ignore[no-untyped-call]
        f"end{rank}", rank=rank, world_size=2, rpc_backend_options=options
    )


def torch_rpc_server(address: str, tcp: bool = False) -> None:
    """Serve RPCs, which TensorPipe's threads answer."""
    _start_rpc(address, 1, tcp)
    for _ in orders():
        pass
    torch_rpc.shutdown(graceful=False)


def torch_rpc_client(address: str, tcp: bool = False) -> None:
    """Push and pull by `rpc_sync`."""
    _start_rpc(address, 0, tcp)
    for what, nbytes, repeats in orders():
        tensor = torch.ones(nbytes // 4)
        function, argument = (take, tensor) if what == "push" else (give, nbytes)

        def once(function: Any = function, argument: Any = argument) -> None:
            torch_rpc.rpc_sync("end1", function, args=(argument,))

        answer(time_calls(repeats, once))
    torch_rpc.shutdown(graceful=False)


# --- gloo -------------------------------------------------------------------------------------------------


def gloo_server(address: str) -> None:
    """Serve orders by gloo's `send` and `recv`."""
    dist.init_process_group("gloo", **_rendezvous(address, 1))
    token = torch.zeros(1)
    for what, nbytes, repeats in orders():
        buffer = torch.ones(nbytes // 4)
        for _ in range(repeats):
            dist.recv(buffer if what == "push" else token, 0)
            dist.send(token if what == "push" else buffer, 0)


def gloo_client(address: str) -> None:
    """Push and pull by gloo's `send` and `recv`."""
    dist.init_process_group("gloo", **_rendezvous(address, 0))
    token = torch.zeros(1)
    for what, nbytes, repeats in orders():
        buffer = torch.ones(nbytes // 4)
        sent, received = (buffer, token) if what == "push" else (token, buffer)

        def once(sent: Tensor = sent, received: Tensor = received) -> None:
            dist.send(sent, 1)
            dist.recv(received, 1)

        answer(time_calls(repeats, once))


# --- layerwise --------------------------------------------------------------------------------------------


class IdleSlave:
    """A slave of layer 1 that does not train; its three shards have three sizes."""

    def __init__(self, address: str, lease: JoinReply, identity: Identity | None = None) -> None:
        self._lease = lease
        self._endpoint = Endpoint(address, identity=identity, run=load(None).run.name)
        self._network = Network(self._endpoint, lease, 0.5, 20.0, Telemetry, Meter())
        self._network.start()
        self._shards: dict[int, tuple[Header, np.ndarray]] = {}

    def close(self) -> None:
        """Return the lease and close all connections."""
        self._network.leave("the benchmark is over")
        self._network.close()
        self._endpoint.close()

    def create(self, nbytes: int) -> None:
        """Create a shard of zeros; pushes will add 1.0."""
        name = f"1/{('weights', 'gradient', 'input')[len(self._shards)]}"
        table = lay_out([("weight", "float32", (nbytes // 4,), "parameter")])
        header = Header(name, Operation.CREATE, incarnation=self._lease.incarnation, table=table)
        self._push(Push(header, np.zeros(nbytes, np.uint8)))
        self._shards[nbytes] = header, np.ones(nbytes // 4, np.float32).view(np.uint8)

    def push(self, nbytes: int) -> None:
        """Push an array of 1.0, and wait for the acknowledgement."""
        header, ones = self._shards[nbytes]
        header = replace(header, operation=Operation.UPDATE, sequence=header.sequence + 1)
        self._shards[nbytes] = header, ones
        self._push(Push(header, ones))

    def pull(self, nbytes: int) -> None:
        """Pull as a slave fetches in training, and check that every push was applied once."""
        header, _ = self._shards[nbytes]
        self._network.fetch(Fetch(header.shard))
        fetched = self._network.inbox.get()
        if not isinstance(fetched, Fetched) or fetched.header is None:
            raise RuntimeError(f"expected a version of {header.shard}, got {fetched!r}")
        first = np.frombuffer(fetched.buffer, np.float32, 1)[0]
        if first != header.sequence:
            raise AssertionError(f"{header.shard} holds {first} after {header.sequence} pushes of one")

    def _push(self, push: Push) -> None:
        self._network.push(push)
        reply = self._network.inbox.get()
        if not isinstance(reply, PushReply):
            raise RuntimeError(f"expected the answer to a push, got {reply!r}")


def layerwise_client(address: str, identity: Identity | None = None) -> None:
    """Push and pull by a slave's own client."""
    keep_freed_memory()
    channel = control.channel(address, identity)
    request = JoinRequest("benchmark", key=secrets.token_hex(16))
    shown = NOBODY if identity else find_joiner(address)
    slave = IdleSlave(address, control.call(channel, JOIN, request, shown=shown), identity)
    channel.close()
    known: set[int] = set()
    for what, nbytes, repeats in orders():
        if nbytes not in known:
            known.add(nbytes)
            slave.create(nbytes)
        answer(time_calls(repeats, partial(slave.push if what == "push" else slave.pull, nbytes)))
    slave.close()


# Ends take the address, and those of TLS the own certificates.
ENDS: dict[tuple[str, str], Callable[..., None]] = {
    ("tcp", "server"): tcp_server,
    ("tcp", "client"): tcp_client,
    ("torch_rpc", "server"): torch_rpc_server,
    ("torch_rpc", "client"): torch_rpc_client,
    ("torch_rpc_tcp", "server"): partial(torch_rpc_server, tcp=True),
    ("torch_rpc_tcp", "client"): partial(torch_rpc_client, tcp=True),
    ("gloo", "server"): gloo_server,
    ("gloo", "client"): gloo_client,
    ("layerwise", "client"): layerwise_client,
}

if __name__ == "__main__":
    end_with_parent()
    torch.set_num_threads(1)
    way, end, where, *certificates = sys.argv[1:]
    ENDS[way, end](where, *(find_identity(Path(each)) for each in certificates))
