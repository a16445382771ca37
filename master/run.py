"""State machine of one run: leases, counts, the newest evaluation, and the values that outlive the master.

Inputs are requests and the time, outputs are a reply and effects. `master.ledger` carries the effects out
before the reply leaves. No I/O and no clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from common.config.sections import Config
from common.data.levels import Levels
from common.data.replicas import may_stop
from common.errors import MalformedError, RefusedError, UnreachableError
from common.wire import messages as m
from common.wire.counters import add_counters, add_layers
from common.wire.ranges import MOST, restore
from common.wire.stages import ResizeReply, ResizeRequest, Stage
from common.wire.stores import AttendRequest, ListedLease, LocateReply, LocateRequest, PlaceRequest
from common.wire.telemetry import add_delays
from master.agreement import Agreement
from master.curriculum import Grading, announce
from master.effects import Effect
from master.keyring import Keyring
from master.lease import LeaseEvent
from master.leases import check_own
from master.progress import Progress
from master.resizing import Change
from master.restoration import restore_roster, restore_stores
from master.standing import waiting_fractions
from master.stores import Stores
from master.tally import Tally

# A run without a batch for so many heartbeats, whose first layer waits for a level, stands still.
STILL_BEATS = 10


class Shards(Protocol):
    """Progress of the run's shards, wherever they are kept."""

    def versions(self) -> dict[str, int]:
        """Version of every shard."""

    def next_batch(self, name: str, replica: int | None = None) -> int:
        """First batch that a shard lacks, of a replica or of all."""

    def deal(self, start: int, replicas: Sequence[int]) -> None:
        """Take pushes of so many replicas a layer, from a batch on that no shard lacks."""


class Run:
    """Roster, tally and evaluation of a run; `now` is in seconds of a monotonic clock.

    Args:
        config: resolved configuration.
        shards: progress of the shards in this process, read for replies; those in stores have a place.
        saved: values from an earlier master's `dump`; empty at the run's beginning.
        identity: random name of the run, unless `saved` has a name. Ports are used again: the name tells a
            neighbour from another run's slave.
        keyring: makes the secrets of leases and pairs.

    Attributes:
        roster: leases.
        tally: counters.
        starts: number of masters so far, the present included.
        change: decides on the number of replicas.
        grading: decides on levels; None: examples do not become harder.
        stores: processes that keep the shards; None: the master does.
    """

    def __init__(
        self, config: Config, shards: Shards, saved: dict[str, Any], identity: str, keyring: Keyring
    ) -> None:
        self.config = config
        self.change = Change(config, saved)
        self.roster = restore_roster(config, self.change, saved, keyring)
        self.tally = Tally.restore(saved)
        self.starts = saved.get("starts", 0) + 1
        self.identity = saved.get("run") or identity
        self._evaluation = restore(m.Evaluation, saved.get("evaluation", {}))
        self.grading = Grading.restore(config.replicas[-1], saved) if config.curriculum else None
        self._agreement = Agreement.restore(saved)
        self._progress = Progress()
        self.stores = restore_stores(config, saved, self.starts)
        self._shards: Shards = self.stores or shards
        if self.change.present:
            self._shards.deal(self.change.start, self.change.replicas)
        self._effects: list[Effect] = []
        # Number of the snapshot that a rollback is putting back; the shards are of two versions meanwhile.
        self._restoring = 0

    def take_effects(self) -> list[Effect]:
        """Hand over the effects of the inputs so far, in order, once."""
        effects, self._effects = self._effects, []
        return effects

    def dump(self, now: float) -> dict[str, Any]:
        """Values that must outlive the master beside the shards, plain for JSON."""
        return {
            **self.tally.dump(),
            "roster": self.roster.dump(now),
            "starts": self.starts,
            "run": self.identity,
            "evaluation": dataclasses.asdict(self._evaluation),
            **(self.grading.dump() if self.grading else {}),
            **self._agreement.dump(),
            **self.change.dump(),
            **({"stores": self.stores.dump()} if self.stores else {}),
        }

    def join(self, request: m.JoinRequest, now: float, certificate: str = "") -> m.JoinReply:
        """Grant a lease, bound to the name of the slave's certificate, or ask the slave to wait.

        Raises:
            UnreachableError: the run is being put back to a snapshot, or stores are missing.
            LayerwiseError: the slave has other data, user's files, versions or layers than the run.
        """
        self.check_open()
        if self.stores:
            self.stores.check_complete()
        warning = "" if self.roster.over else self._compare(request.host, request.holdings)
        self.roster.beginning.learn(request.work, len(self.config.replicas))
        plain = dataclasses.replace(request, holdings=m.Holdings(), work=[])
        reply, events = self.roster.join(plain, now, certificate)
        self._note(events)
        if warning and events:
            self._effects.append(Effect({"event": "warned", "host": request.host, "why": warning}))
        reply = dataclasses.replace(reply, warning=warning)
        self._resize(now)
        return dataclasses.replace(
            reply,
            next_batch=self.next_batch(reply),
            run=self.identity,
            curriculum=announce(self.grading),
            replicas=[*self.change.replicas],
            end=self.change.end or 0,
        )

    def next_batch(self, lease: m.JoinReply) -> int:
        """First batch that the weights of a lease's seat lack."""
        return self._shards.next_batch(f"{lease.layer}/weights", lease.replica)

    def agree(self, request: m.AgreeRequest, now: float) -> m.AgreeReply:  # noqa: ARG002 - an input like the rest
        """Compare the holdings of a process without a lease with the run's.

        Raises:
            RefusedError: the process has other data, user's files or versions than the run.
        """
        known = self._agreement
        warning = self._compare(request.host, request.holdings)
        if self._agreement != known:
            self._effects.append(Effect({"event": "agreed", **self._agreement.dump()}))
        return m.AgreeReply(warning)

    def _compare(self, host: str, holdings: m.Holdings) -> str:
        """Return a warning, perhaps empty; the first process of a run says what the others must hold."""
        begun = bool(self._shards.versions()) or bool(self.roster.seating.holders())
        self._agreement, verdict = self._agreement.hear(host, holdings, begun=begun)
        if verdict.refusal:
            self._effects.append(Effect({"event": "refused", "host": host, "why": verdict.refusal}))
            raise RefusedError(verdict.refusal)
        return verdict.warning

    def attend(self, request: AttendRequest, now: float) -> None:
        """Take a store's report.

        Raises:
            RefusedError: this run's shards are in the master, the store holds another run, or the run has its
                stores already.
            FencedError: another process has taken over the store's directory.
        """
        if request.run not in ("", self.identity):
            raise RefusedError("the store's --state-dir holds another run; give another directory")
        self._effects += [Effect(line) for line in self._stores().attend(request, now)]

    def locate(self, request: LocateRequest) -> LocateReply:
        """Find the store of a shard.

        Raises:
            NotFoundError: the shard has not been dealt out.
            UnreachableError: the store is away.
        """
        return self.stores.locate(request.shard) if self.stores else LocateReply()

    def place(self, request: PlaceRequest, now: float) -> LocateReply:  # noqa: ARG002 - an input like the rest
        """Deal a shard of a slave's layer to a store.

        Raises:
            FencedError: the lease has passed to another slave.
            MalformedError: the shard is not of the slave's seat.
            UnreachableError: stores are missing.
            RefusedError: the run has no stores.
        """
        check_own(self.roster.seat(request.incarnation), request.shard)
        stores = self._stores()
        known = stores.knows(request.shard)
        found = stores.place(request.shard, request.nbytes)
        if not known:
            self._effects.append(Effect({"event": "dealt", "shard": request.shard, "store": found.store}))
        return found

    def _stores(self) -> Stores:
        if self.stores is None:
            raise RefusedError("the master keeps this run's shards (cluster.stores = 0); there are no stores")
        return self.stores

    def heartbeat(self, request: m.HeartbeatRequest, now: float) -> m.HeartbeatReply:
        """Keep a lease.

        Raises:
            FencedError: the lease has passed to another slave.
            MalformedError: scores that are not layer K's.
        """
        self._hear(request)
        self.change.hear(request.incarnation, request.promise)
        self._note(self.roster.heartbeat(request.incarnation, request.beat, request.telemetry, now))
        version, peers = self.roster.neighbours(request.incarnation, request.peers_version)
        self._resize(now)
        change = self.change
        reply = m.HeartbeatReply(
            self.roster.over,
            version,
            peers,
            curriculum=announce(self.grading),
            hold=change.hold,
            end=change.end or 0,
            rejoin=self.roster.seating.closing,
        )
        if self.config.decoupling.slots is None:
            return reply
        stop = may_stop(self.roster.seating.next_batches(), change.end or self.config.run.batches)
        return dataclasses.replace(reply, begin=self.roster.complete, stop=stop)

    def leave(self, request: m.LeaveRequest, now: float) -> m.LeaveReply:
        """Give a lease back.

        Raises:
            FencedError: the lease has passed to another slave.
        """
        self._note(self.roster.leave(request.incarnation, request.telemetry, request.reason))
        self._resize(now)
        return m.LeaveReply()

    def resize(self, request: ResizeRequest, now: float) -> ResizeReply:
        """Ask for another number of replicas, which begins at a batch once enough slaves are there.

        Raises:
            RefusedError: the run cannot have these replicas, or is over.
            UnreachableError: the run is being put back to a snapshot.
        """
        self.check_open()
        if self.roster.over:
            raise RefusedError("resize: the run is over")
        self._effects += [Effect(line) for line in self.change.want(request.replicas, self.roster)]
        self._resize(now)
        return self.change.reply(self.roster)

    def _resize(self, now: float) -> None:
        """Take the next step of a change of replicas, and deal the seats once the next stage begins."""
        if self._restoring:
            return
        change = self.change
        present, lines = change.present, change.advance(self.roster, self._shards, now)
        if change.present != present:
            self.roster.deal(change.replicas, now)
            self.roster.seating.last = change.end is None
            self._shards.deal(change.start, change.replicas)
        self._effects += [Effect(line) for line in lines]

    def report(self, evaluation: m.Evaluation, now: float) -> m.ReportReply:  # noqa: ARG002 - an input like the rest
        """Keep an evaluator's newest result."""
        self._evaluation = evaluation
        self._effects.append(Effect({"event": "evaluated", **dataclasses.asdict(evaluation)}))
        return m.ReportReply()

    def tick(self, now: float) -> None:
        """Fail silent slaves, and look for progress."""
        self._note(self.roster.tick(now))
        if self.stores:
            self._effects += [Effect(line) for line in self.stores.tick(now)]
        self._progress.note(self._shards.versions(), self.roster.seating.reached(), now)
        self._relieve(now)
        self._resize(now)

    def _hear(self, request: m.HeartbeatRequest) -> None:
        """Decide on levels from the scores of a heartbeat.

        Raises:
            FencedError: the lease has passed to another slave.
            MalformedError: the slave is not of layer K, or the run has no levels.
        """
        if not request.scores:
            return
        seat = self.roster.seat(request.incarnation)
        if self.grading is None or seat.layer != len(self.config.replicas):
            raise MalformedError(f"layer {seat.layer} reported scores; layer K of a run with levels does")
        before = self.grading.levels
        if self.grading.hear(seat.replica, request.scores):
            self._note_levels(before)

    def _relieve(self, now: float) -> None:
        """Decide the next level without the scores of a slave that will never report them.

        A slave of layer K may die before a report of batches that the other layers have left behind. Its
        successor waits for a later batch, and the others for the level.
        """
        if (
            self.grading is None
            or self.roster.still_seconds(now) < STILL_BEATS * self.config.cluster.heartbeat_seconds
        ):
            return
        if self.grading.awaited(max(next_batch for next_batch, _ in self.roster.seating.reached())):
            before = self.grading.levels
            self.grading.give_up()
            self._note_levels(before)

    def _note_levels(self, before: Levels) -> None:
        """Have the present levels written, and new ones logged."""
        assert self.grading is not None
        self._effects += [Effect(line) for line in self.grading.describe(before) or [{}]]

    def begin_rollback(self, number: int, saved: dict[str, Any], now: float) -> int:
        """End every lease and go back to the values of a snapshot; returns how many leases ended.

        Nobody may join until `end_rollback`.
        """
        self._restoring = number
        reason = f"rolled back to snapshot {number}"
        self.roster.seating.last = self.change.rewind(saved)
        events = self.roster.roll_back(saved.get("roster", {}), reason, now, self.change.replicas)
        self.roster.seating.last = True
        self._shards.deal(self.change.start, self.change.replicas)
        self._evaluation = restore(m.Evaluation, saved.get("evaluation", {}))
        self._note(events)
        return len(events)

    def resume_rollback(self, number: int) -> None:
        """Let nobody join until `end_rollback`, if an earlier master left a rollback half-way; 0: none."""
        self._restoring = number

    def end_rollback(self) -> None:
        """Let slaves join again: every shard has been put back."""
        self._restoring = 0

    def check_open(self) -> None:
        """Refuse while a rollback is under way.

        Raises:
            UnreachableError: the run is being put back to a snapshot; ask again.
        """
        if self._restoring:
            raise UnreachableError(f"the run is being put back to snapshot {self._restoring}; ask again")

    def listed(self) -> tuple[int, list[ListedLease], Stage]:
        """Return what stores know: number of grants, leases that stand, and the present stage."""
        return *self.roster.listed(), Stage(self.change.start, [*self.change.replicas])

    def shown(self) -> list[m.JoinRequest | AttendRequest]:
        """Slaves and stores, as they have told of themselves, for visitors of their pages."""
        return [*self.roster.slaves(), *(self.stores.reports() if self.stores else [])]

    def status(self, now: float) -> m.StatusReply:
        """State of the run; the process' own figures and snapshots are left at their defaults."""
        seats = self.roster.seats(now)
        work = [*(seat.telemetry for seat in seats), *self.roster.seating.rested()]
        reports = self.stores.reports() if self.stores else []
        pushed = {k: self._shards.next_batch(f"{k}/weights") for k in range(1, len(self.config.replicas) + 1)}
        reached = (max(seat.telemetry.next_batch, pushed[seat.layer]) for seat in seats)
        return m.StatusReply(
            name=self.config.run.name,
            state="done" if self.roster.over else "training" if self.roster.complete else "waiting",
            batches=min(self.config.run.batches, *reached),
            of_batches=self.config.run.batches,
            waiting_slaves=self.roster.waiting(),
            training_seconds=self.roster.training_seconds(now),
            starts=self.starts,
            seats=seats,
            versions=self._shards.versions(),
            delays=add_delays(each.delays for each in work),
            waiting_fraction=waiting_fractions(seats),
            lost_batches=min(sum(each.lost_batches for each in work), MOST),
            lost_states=min(sum(each.lost_states for each in work), MOST),
            curriculum=announce(self.grading),
            counters=add_counters([self.tally.counters(), *(each.counters for each in reports)]),
            evaluation=self._evaluation,
            layers=add_layers([self.tally.by_layer(), *(each.layers for each in reports)]),
            still_seconds=0.0 if self.roster.over else self._progress.still_seconds(now),
            successors=self._progress.successors,
            stores=self.stores.states(now) if self.stores else [],
            stages=self.change.stages.to_messages(),
            stage=self.change.present,
            resizing=self.change.describe(self.roster),
        )

    def _note(self, events: list[LeaseEvent]) -> None:
        self._effects += [Effect.of(event) for event in events]
        kinds = [event.kind for event in events]
        self.tally.add(failed_leases=kinds.count("failed"), restarts=kinds.count("replaced"))
