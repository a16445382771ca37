"""Opening of a lease: the layer is composed, and its shards are fetched or created."""

from __future__ import annotations

import logging

from common.errors import NotFoundError
from common.shards.pushes import Header, PushReply
from common.shards.working_copy import WorkingCopy
from common.wire.messages import JoinReply
from slave.network.network import Network
from slave.network.prepared import Prepared
from slave.network.progress import Progress
from slave.training import layers
from slave.training.served import Serving
from slave.training.trained import TrainedLayer

log = logging.getLogger("layerwise.slave")


class Opening:
    """Opening of one lease.

    Args:
        network: of the lease, started.
        prepared: configuration, data and device of the slave.
        lease: granted by the master.
        progress: counts the versions.
    """

    def __init__(self, network: Network, prepared: Prepared, lease: JoinReply, progress: Progress) -> None:
        self._network = network
        self._prepared = prepared
        self._lease = lease
        self._progress = progress

    def build(self, serving: Serving | None) -> TrainedLayer:
        """Build the layer at the master's version, ready to train; `serving` runs M and I elsewhere.

        Raises:
            ConfigError: the layer cannot be trained.
        """
        prepared, lease, config = self._prepared, self._lease, self._prepared.config
        blueprint = prepared.ahead.take(lease.layer)
        compiled = config.compiled[lease.layer - 1]
        if compiled:
            log.info("compiling layer %d", lease.layer)
        trained = layers.build(
            config,
            blueprint,
            prepared.dataset,
            lease,
            self._begin,
            prepared.device,
            serving,
            compiled=compiled,
        )
        self._back_up(trained)
        log.info(
            "layer %d of %d on %s, from batch %d: %s",
            lease.layer,
            config.layers,
            prepared.device,
            lease.next_batch,
            f"{trained.layer.flat.parameters.numel():,} parameters",
        )
        return trained

    def _begin(self, copy: WorkingCopy) -> bool:
        """Bring a working copy to the master's version of the shard; False: the shard had to be created."""
        try:
            version = self._pull(copy)
        except NotFoundError:
            self._network.push(copy.create())
            # Beside the only replica of a layer nobody creates the shard: the training need not wait.
            if not self._alone:
                reply = self._await_reply(copy.name)
                copy.answered(reply)
                if not reply.applied:
                    copy.begin(*self._pull(copy))
            return False
        copy.begin(*version)
        return True

    @property
    def _alone(self) -> bool:
        return self._prepared.config.replicas[self._lease.layer - 1] == 1

    def _pull(self, copy: WorkingCopy) -> tuple[Header, memoryview]:
        version = self._network.pull(copy.name)
        self._progress.pulls += 1
        return version

    def _await_reply(self, shard: str) -> PushReply:
        while True:
            event = self._network.inbox.get()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, PushReply) and event.shard == shard:
                return event

    def _back_up(self, trained: TrainedLayer) -> None:
        """Go on with the moments and states of the seat's last slave, and keep backing both up."""
        for backup in layers.backups(self._prepared.config, self._lease, trained):
            try:
                backup.begin(*self._pull(backup))
            except NotFoundError:
                backup.begin_anew()
                self._network.place(backup.name, backup.nbytes)
                if self._lease.next_batch:
                    log.info("there is no backup %s: its numbers begin anew", backup.name)
            trained.copies.append((backup, trained.copies[0][1]))
        if (carried := trained.layer.carried) and self._lease.next_batch:
            start = f"from the states after batch {carried.newest}" if carried.newest >= 0 else "from zeros"
            log.info("layer %d's streams go on %s", self._lease.layer, start)
