"""Shards of a store: pushes and pulls of slaves that the master has listed, and the master's orders."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

from common.config.sections import Config
from common.errors import RunFailedError
from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.wire.stores import AttendRequest, ShardState, StoreOrder
from master.disk.recovery import resume_config
from master.disk.state import StateDirectory, seal, unseal
from master.leases import ListedLeases
from master.parameters import ParameterService
from master.store.policies import policies
from master.store.store import Store
from master.tally import Tally

# Files of the directory: names of store and run, and the counts of pushes and pulls.
NAMES, COUNTS = "store", "counts.json"


class Shelf:
    """Shards in a state directory.

    Args:
        config: of the run, resolved.
        state: the store's directory.

    Attributes:
        name: of the store, random, kept in the directory.
        run: name of the run whose shards are here; empty for none.
        leases: as the master listed them last.
        parameters: pushes and pulls.
        tally: counts of both.

    Raises:
        RefusedError: the directory holds a run of another configuration.
        RunFailedError: the directory is damaged, or the machine was restarted.
    """

    def __init__(self, config: Config, state: StateDirectory) -> None:
        self._state = state
        config = resume_config(config, state)
        if state.other_boot and any(state.survey()):
            raise RunFailedError(
                f"{state.path}: the machine was restarted, the last writes may never have reached the disk, "
                "and a run with stores has no snapshots yet; begin the run anew, with other directories"
            )
        state.note_boot()
        self.name, self.run = self._names()
        self.store = Store(state, policies(config))
        # The next batch of one of R replicas may lie R - 1 past the last batch.
        self.leases = ListedLeases(config.batch_bound + max(config.replicas) - 1)
        self.tally = Tally.restore(self._counts())
        self.parameters = ParameterService(self.leases, self.store, self.tally)
        self._listed: set[int] = set()

    def _names(self) -> tuple[str, str]:
        """Read the names of store and run; the first process makes the store's."""
        text = self._state.read(NAMES)
        if text is not None:
            try:
                names = json.loads(text)
                return str(names["store"]), str(names["run"])
            except (ValueError, KeyError, TypeError):
                raise RunFailedError(
                    f"{self._state.path / NAMES}: is no JSON with the names of store and run; restore the "
                    "file from a copy"
                ) from None
        name = uuid.uuid4().hex
        self._write_names(name, "")
        return name, ""

    def _write_names(self, name: str, run: str) -> None:
        self._state.write(NAMES, json.dumps({"store": name, "run": run}) + "\n")

    def _counts(self) -> dict[str, Any]:
        text = self._state.read(COUNTS)
        return {} if text is None else unseal(text, self._state.path / COUNTS)

    def note_run(self, run: str) -> None:
        """Note whose shards are here, before the first of them comes.

        Raises:
            NoRoomError: the disk has no room.
        """
        if run != self.run:
            self._write_names(self.name, run)
            self.run = run

    def obey(self, order: StoreOrder) -> None:
        """Make an order true; blocks.

        When this returns, no push of a lease that is not listed any more can come in.
        """
        self.leases.learn(order)
        listed = {lease.incarnation for lease in order.leases}
        # Each takes every shard's lock: a push that saw the old list has been committed, or is refused.
        for incarnation in sorted((self._listed | self.store.incarnations()) - listed):
            self.store.forget(incarnation)
        self._listed = listed

    def report(self) -> AttendRequest:
        """Describe the shards, for a report of the process."""
        counters = replace(self.tally.counters(), cpu_seconds=cpu_seconds(), peak_rss_bytes=peak_rss_bytes())
        shards = [
            ShardState(name, record.version, dict(record.progress), nbytes)
            for name, (record, nbytes) in self.store.records().items()
        ]
        return AttendRequest(
            self.name, run=self.run, shards=shards, counters=counters, layers=self.tally.by_layer()
        )

    def save(self) -> None:
        """Write the counts; pushes are durable by themselves."""
        self._state.write(COUNTS, seal(self.tally.dump()))
