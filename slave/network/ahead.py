"""Work of a waiting slave ahead of a lease, on a thread beside the wait."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from common.bounds import LARGEST_SIGNAL_MESSAGE_BYTES
from common.config.sections import Config
from common.data.datasets import Dataset
from common.lifecycle import give_way
from common.models import network
from common.models.network import Blueprint
from common.models.rehearsal import rehearse
from common.supervision import SupervisedThread, describe
from common.wire.messages import JoinReply
from slave.training import layers

log = logging.getLogger("layerwise.slave")


class _HurriedError(Exception):
    """A lease has come, or the end of the process."""


class Ahead:
    """Work for a lease on any layer of a run, ahead of the lease.

    The units are rehearsed one by one, each layer is composed (and compiled) once and dropped, and the
    network is kept with its initial parameters. So a waiting slave has as many bytes in memory as every slave
    at the opening of a lease, and no layer on its device.

    Args:
        config: of the run, resolved.
        dataset: source of the examples.
        device: trains a layer.
        code: folder in which a user's file is searched first.
    """

    def __init__(self, config: Config, dataset: Dataset, device: torch.device, code: Path | None) -> None:
        self._config = config
        self._dataset = dataset
        self._device = device
        self._code = code
        self._thread: SupervisedThread | None = None
        self._hurry = threading.Event()
        # What stays true for every later lease of this process: rehearsed, and composed.
        self._rehearsed = self._practised = False
        self._built: Blueprint | None = None
        # Whether there is nothing left to do before a lease, done or failed.
        self._ready = False
        # Counted work of a batch by layer, in 10^9 multiply-adds; empty until counted.
        self.work: list[float] = []
        self._counted = False

    def count(self) -> None:
        """Begin to build the network, and to count each layer's work, unless that is under way or done."""
        if not self._counted:
            self._begin(self._count)

    def start(self) -> None:
        """Begin to do everything, unless that is under way or done; for a slave that has no lease."""
        if not self._ready:
            self._begin(self._work)

    def _begin(self, work: Callable[[], None]) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._hurry.clear()
            thread = SupervisedThread(work, "work ahead")
            # Without room for a thread at present the next request for a lease tries again.
            with contextlib.suppress(BlockingIOError):
                thread.start()
                self._thread = thread

    def build(self) -> Blueprint:
        """Build the network with the initial parameters.

        Raises:
            ConfigError: the network cannot be built here.
        """
        return network.build_initial(self._config, self._dataset.inputs, self._dataset.targets, self._code)

    def take(self, layer: int) -> Blueprint:
        """Return the network for a lease on a layer, built and rehearsed ahead or else now.

        Raises:
            ConfigError: the layer cannot be trained here.
        """
        self.close()
        built, self._built, self._ready = self._built, None, False
        if not self._rehearsed:
            self._rehearse(layer)
        return built or self.build()

    def close(self) -> None:
        """Wait for the end of the thread, which stops before the next unit or layer."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._hurry.set()
            thread.join()

    def _count(self) -> None:
        with self._warned():
            built = self.build()
            self.work = [each / 1e9 for each in network.count_work(self._config, built, self._look)]
            self._built = built
        self._counted = True

    def _work(self) -> None:
        give_way()
        with self._warned():
            if not self._rehearsed:
                self._rehearse(None, self._look)
                self._rehearsed = True
            if not self._practised:
                self._practise()
                self._practised = True
            self._built = self._built or self.build()
            log.info("ready for a lease on any layer")
        self._ready = True

    @contextmanager
    def _warned(self) -> Iterator[None]:
        """Turn an error into a warning: the lease may be on a layer that works here."""
        try:
            yield
        except _HurriedError:
            return
        except Exception as error:
            reason = describe(error)
            log.warning("cannot prepare for every layer: %s; looking again once a layer is known", reason)

    def _look(self) -> None:
        if self._hurry.is_set():
            raise _HurriedError

    def _rehearse(self, layer: int | None, look: Callable[[], None] = lambda: None) -> None:
        most = LARGEST_SIGNAL_MESSAGE_BYTES
        rehearse(self._config, self._dataset, most, self._code, layer, self._device, look)

    def _practise(self) -> None:
        """Compose each layer once: the parts are imported, and torch keeps what it has compiled."""
        config, blueprint = self._config, self.build()
        for k in range(1, config.layers + 1):
            self._look()
            lease, compiled = JoinReply(layer=k), config.compiled[k - 1]
            layers.build(config, blueprint, self._dataset, lease, None, self._device, compiled=compiled)
            # Off the device, which has room for one layer perhaps.
            network.layer(blueprint, config.network.cuts or [], k).to("cpu")
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
