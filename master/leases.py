"""Leases as those see them who check pushes: by incarnation. No I/O; safe for several threads."""

from __future__ import annotations

from typing import Protocol

from common.credentials import is_secret
from common.errors import FencedError, MalformedError, UnprovenError, UnreachableError
from common.wire.stores import ListedLease, StoreOrder

SHARD_KINDS = ("weights", "gradient", "input", "time", "optimizer")
# Of the states that a replica carries: k/state-r.
STATE_KIND = "state-{replica}"


class Holder(Protocol):
    """Lease on a seat, with the proofs that its holder shows."""

    @property
    def layer(self) -> int:
        """Layer k of the seat."""

    @property
    def replica(self) -> int:
        """Replica r of the seat."""

    @property
    def proof(self) -> str:
        """Hash of the lease's secret."""

    @property
    def certificate(self) -> str:
        """Name of the holder's certificate; empty in the clear."""


class Leases(Protocol):
    """Leases of a run: those of the roster, or a store's list of them."""

    def seat(self, incarnation: int) -> Holder:
        """Find the lease of an incarnation.

        Raises:
            FencedError: the lease has passed to another slave.
            UnreachableError: the leases are not known well enough yet; ask again.
        """

    def check_progress(self, next_batch: int) -> None:
        """Check the first batch that a slave claims to lack.

        Raises:
            MalformedError: the batch is beyond the end of the run.
        """


def check_secret(leases: Leases, incarnation: int, secret: str, certificate: str = "") -> None:
    """Check that a caller knows the secret of a lease, and has the certificate that took the lease.

    Raises:
        UnprovenError: secret or certificate are others, or are missing.
        FencedError: the lease has passed to another slave.
        UnreachableError: the leases are not known well enough yet.
    """
    lease = leases.seat(incarnation)
    bound, proven = lease.certificate == certificate, is_secret(secret, lease.proof)
    if bound and proven:
        return
    # Another thread may have ended the lease between the looks: the holder is fenced, not a liar.
    leases.seat(incarnation)
    if not bound:
        raise UnprovenError(
            f"incarnation {incarnation}: the lease is bound to another certificate than "
            f"{certificate or 'none'}; join for a lease of your own"
        )
    raise UnprovenError(
        f"incarnation {incarnation}: {'a wrong' if secret else 'no'} secret was shown; send that of "
        "Join's answer with the call"
    )


def check_own(seat: Holder, shard: str) -> None:
    """Check that the slave on a seat may create a shard and push to it.

    Raises:
        MalformedError: the shard is not of the seat.
    """
    layer, _, kind = shard.partition("/")
    if kind not in (*SHARD_KINDS, STATE_KIND.format(replica=seat.replica)) or layer != str(seat.layer):
        raise MalformedError(f'layer {seat.layer} cannot push to "{shard}"')


def check_batch(next_batch: int, most: int) -> None:
    """Check the first batch that a slave claims to lack against the bound of the run.

    Raises:
        MalformedError: the batch is beyond the end of the run.
    """
    if next_batch > most:
        raise MalformedError(f"next_batch = {next_batch} is beyond the end of the run, {most} at most")


def fenced(incarnation: int) -> FencedError:
    """Build the error of a slave whose lease has passed to another."""
    return FencedError(f"incarnation {incarnation} holds no lease any more; join again for a new lease")


class ListedLeases:
    """Leases of a run as the master last listed them to a store.

    Args:
        most_batches: upper bound of the first batch that a slave's weights have not seen.
    """

    def __init__(self, most_batches: int) -> None:
        self._most_batches = most_batches
        # Grants that the list covers, and the leases by incarnation: replaced as one, for other threads.
        self._known: tuple[int, dict[int, ListedLease]] | None = None

    def learn(self, order: StoreOrder) -> None:
        """Take the leases of an order in the place of those before."""
        self._known = order.incarnations, {lease.incarnation: lease for lease in order.leases}

    def holds(self, incarnation: int) -> bool:
        """Whether an incarnation is listed."""
        return self._known is not None and incarnation in self._known[1]

    def seat(self, incarnation: int) -> ListedLease:
        """Find the lease of an incarnation.

        Raises:
            FencedError: the lease has passed to another slave.
            UnreachableError: the master has not told of the lease yet.
        """
        if self._known is None:
            raise UnreachableError("this store has just started, and waits for the master; ask again")
        covered, leases = self._known
        if lease := leases.get(incarnation):
            return lease
        if incarnation > covered:
            raise UnreachableError(f"incarnation {incarnation}: the master has not told of it yet; ask again")
        raise fenced(incarnation)

    def check_progress(self, next_batch: int) -> None:
        """Check the first batch that a slave claims to lack.

        Raises:
            MalformedError: the batch is beyond the end of the run.
        """
        check_batch(next_batch, self._most_batches)
