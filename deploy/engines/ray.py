"""Engine of Ray: master and stores are children of this process, and every slave the child of an actor."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from common.config.sections import Config
from common.config.user_files import digest_files
from common.errors import ConfigError, RefusedError, UnreachableError
from common.net.identity import CA, CERTIFICATE, KEY
from deploy.engines.engine import SLAVE, Order, Process
from deploy.engines.local import LocalEngine, share_cores
from deploy.engines.placement import Placement, parse_size
from deploy.engines.planning import code_folder
from deploy.engines.ray_host import Host
from deploy.engines.ray_process import RayProcess
from deploy.runs.directory import RunDirectory

# A process that waits for room for so long is news.
ROOM_SECONDS = 5.0
_GIBIBYTE = 1 << 30


class RayEngine:
    """Places slaves in a group that Ray spreads over the nodes, with room reserved for every slave.

    A restarted slave keeps the place, which Ray moves when a node dies. Slaves beyond the seats get further
    places.

    Args:
        wishes: room of a slave.
        here: engine of this machine, for the master.
        slaves: number of seats.
        code: files of the user's, by name relative to their folder.

    Raises:
        LayerwiseError: the cluster cannot be used.
    """

    def __init__(self, wishes: Placement, here: LocalEngine, slaves: int, code: Mapping[str, bytes]) -> None:
        self._here = here
        self._cpus, self._gpus = wishes.cpus or 1, wishes.gpus or 0
        self._room: dict[str, float] = {"CPU": self._cpus}
        self._room |= {"GPU": self._gpus} if self._gpus else {}
        memory = parse_size(wishes.memory)
        self._room |= {"memory": memory} if memory else {}
        self._code = code
        # Of a program that has connected before.
        self._stays_connected = ray.is_initialized()
        if not self._stays_connected:
            _connect(wishes.address or "auto")
        self.host = ray.util.get_node_ip_address()
        self._seats = slaves
        self._host = ray.remote(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            memory=self._room.get("memory"),
            # A call that waits for news, and a signal.
            max_concurrency=4,
        )(Host)
        self._group = placement_group([self._room] * slaves, strategy="SPREAD")
        self._numbers: dict[str, int] = {}
        self._processes: dict[str, RayProcess] = {}
        self._waiting: set[str] = set()

    def place(self, order: Order) -> Process:
        """Start master and stores here, beside the run's folder, and have Ray find room for a slave.

        Raises:
            OSError: files or memory are short at present.
        """
        if order.command != SLAVE:
            return self._here.place(order)
        number = self._numbers.setdefault(order.name, len(self._numbers))
        strategy = PlacementGroupSchedulingStrategy(self._group, number) if number < self._seats else "SPREAD"
        actor = self._host.options(scheduling_strategy=strategy).remote()
        device = "auto" if self._gpus else "cpu"
        folders = {"--code": self._code} if self._code else {}
        folders |= {"--tls": _read_certificate(order.tls)} if order.tls else {}
        # Files go by a call: Ray's controller keeps the arguments of a creation.
        arguments = [order.command, *order.arguments, f"--device={device}"]
        process = RayProcess(actor, actor.start.remote(arguments, folders, self._cpus), order.log)
        self._processes[order.name] = process
        return process

    def tell(self) -> list[str]:
        """Return a line when further slaves begin to wait for room."""
        with contextlib.suppress(RayError):  # the head is away
            return self._tell()
        return []

    def _tell(self) -> list[str]:
        latest = time.monotonic() - ROOM_SECONDS
        waiting = {
            name
            for name, each in self._processes.items()
            if each.waits_since(latest) and self._lacks_room(name)
        }
        new, self._waiting = waiting - self._waiting, waiting
        if not new:
            return []
        return [
            f"{', '.join(sorted(waiting))}: wait for room in the Ray cluster; each asks for "
            f"{_format(self._room)}, and there is {_format(ray.cluster_resources(), self._room)} in all, "
            f"{_format(ray.available_resources(), self._room)} of it free"
        ]

    def _lacks_room(self, name: str) -> bool:
        """Whether Ray has no place for a slave; otherwise the slave is about to start."""
        spare = self._numbers[name] >= self._seats
        # A head that has just started again may not know the group.
        return spare or placement_group_table(self._group).get("state", "CREATED") != "CREATED"

    def close(self) -> None:
        """Give back the places and the connection."""
        with contextlib.suppress(RayError):
            remove_placement_group(self._group)
        if not self._stays_connected:
            ray.shutdown()


def open_engine(placement: Placement, directory: RunDirectory, config: Config) -> RayEngine:
    """Connect to a cluster of Ray.

    Raises:
        LayerwiseError: the cluster cannot be used, or the user's files are in several folders.
    """
    code = _read_code(config)
    # The master shares this machine with the evaluator. `ray job stop` sends SIGTERM to this process and
    # all its children at once.
    here = LocalEngine(directory, share_cores(2), shielded=True)
    return RayEngine(placement, here, sum(config.replicas), code)


def _connect(address: str) -> None:
    """Connect this process as a driver; handlers of signals stay.

    Raises:
        LayerwiseError: no cluster is there, or it cannot be used from here.
    """
    named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if "://" in named:
        raise ConfigError(
            f"train --address {named}: is the address of a gateway, and slaves must reach the master here; "
            "run on a node of the cluster, or by `ray job submit`"
        )
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise UnreachableError(
            f"train --address {named}: no Ray cluster answers ({_line(error)}); start one by "
            "`ray start --head`, and run on one of its nodes"
        ) from None
    except (RuntimeError, ValueError) as error:
        raise RefusedError(
            f"train --address {named}: Ray refuses ({_line(error)}); run on a node of the cluster, with its "
            "versions of Ray and Python"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)


def _read_code(config: Config) -> dict[str, bytes]:
    """Read the user's Python files: named by the configuration, or imported from beside a named file.

    Raises:
        ConfigError: the files are in several folders, or one is missing.
    """
    folder = code_folder(config)
    if folder is None:
        return {}
    names = {name for spec in config.user_functions.values() for name in digest_files(spec, folder)}
    return {name: (folder / name).read_bytes() for name in sorted(names)}


def _read_certificate(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (CA, CERTIFICATE, KEY)}


def _format(room: Mapping[str, float], of: Mapping[str, float] | None = None) -> str:
    """Format amounts of resources, for example "2 CPU, 1 GPU, 4 GiB of memory"."""
    amounts = {name: room.get(name, 0.0) for name in of or room}
    return ", ".join(
        f"{amount / _GIBIBYTE:.3g} GiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in amounts.items()
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
