"""Parameter service: which pushes may come in, and the shards' side of pushes and pulls. No I/O."""

from __future__ import annotations

from contextlib import nullcontext

from common.errors import MalformedError
from common.shards.pushes import Header, Operation, PullRequest, PushReply
from common.shards.table import Precision, Table
from master.leases import Leases, check_own
from master.store.shard import Reading
from master.store.store import Pieces, Source, Store
from master.tally import Tally


class ParameterService:
    """Shards of a run, open to readers and to slaves with a lease. Safe for several threads.

    Args:
        leases: of the run, read only.
        store: the shards.
        tally: counts of pushes and pulls.
    """

    def __init__(self, leases: Leases, store: Store, tally: Tally) -> None:
        self._leases = leases
        self._store = store
        self._tally = tally

    def admit(self, header: Header | None) -> Table | None:
        """Check a push by its header; returns the shard's registered table, or None for a creation.

        Raises:
            MalformedError: no header, a shard that slaves of the sender's layer may not push to, or a batch
                beyond the end of the run.
            FencedError: the sender's lease has passed to another slave.
            NotFoundError: there is no such shard.
        """
        if header is None:
            raise MalformedError("data came where a header was expected")
        seat = self._leases.seat(header.incarnation)
        check_own(seat, header.shard)
        if header.replica != seat.replica:
            raise MalformedError(f"replica {seat.replica} cannot push as replica {header.replica}")
        self._leases.check_progress(header.next_batch)
        if header.operation is Operation.CREATE:
            if header.precision is not Precision.FLOAT32 or header.fragments:
                raise MalformedError("CREATE narrow, or in fragments; a creation has the whole in float32")
            return None
        if header.operation.answers or header.sequence < 1:
            raise MalformedError(f"{header.operation.name} with sequence {header.sequence} is no push")
        return self._store.table(header)

    def push(self, header: Header, pieces: Pieces) -> PushReply:
        """Create a shard or apply an update, if the sender holds a lease.

        Raises:
            LayerwiseError: as `Store.create` and `Store.land`.
            FencedError: the sender's lease has passed to another slave.
        """
        if header.operation is not Operation.CREATE:
            return self.land(header, lambda _: nullcontext(pieces))
        self._leases.seat(header.incarnation)
        return self._store.create(header, pieces, lambda: self._leases.seat(header.incarnation))

    def land(self, header: Header, source: Source) -> PushReply:
        """Apply an update that `source` receives into the idle buffer, if the sender holds a lease.

        Raises:
            LayerwiseError: as `Store.land`.
            FencedError: the sender's lease has passed to another slave.
        """
        seat = self._leases.seat(header.incarnation)
        reply = self._store.land(header, source, lambda: self._leases.seat(header.incarnation))
        # A push of buffers alone, as of a slave's moments, carries values, which are never stale.
        self._tally.count_push(seat.layer, seat.replica, reply, ages=header.table.parameters_nbytes > 0)
        return reply

    def read(self, request: PullRequest) -> Reading:
        """Hold a version of a shard for a reader; the caller releases the reading.

        Raises:
            FencedError: the reader's lease has passed to another slave.
            NotFoundError: there is no such shard.
        """
        seat = self._leases.seat(request.incarnation) if request.incarnation else None
        reading = self._store.read(
            request.shard,
            request.incarnation,
            moving=request.moving,
            fragment=request.fragment,
            fragments=request.fragments,
        )
        self._tally.count_pull((seat.layer, seat.replica) if seat is not None else None)
        return reading
