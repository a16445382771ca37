"""State that a recurrent layer carries from window to window, one a group of streams. No I/O.

The state moves on as soon as a window has gone forward, before any gradient comes. What a successor needs is
the state before the first batch that the layer's weights have not seen, so that is what is backed up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.data.streams import StreamOrder
from common.shards.table import Raw
from slave.training.gathered import Gathered

# Windows of a group whose states are kept, since the window after each may still come: batches overtake each
# other after a broken stream, and a replica below may run far ahead of another.
MOST_ENDS = 4


@dataclass(eq=False)
class _Group:
    """States of a group of streams, (B, S).

    Attributes:
        ends: state after each of the last windows that no window has followed, by batch.
        before: state before each window taken but not yet seen by the weights, by batch.
    """

    ends: dict[int, Tensor] = field(default_factory=dict)
    before: dict[int, Tensor] = field(default_factory=dict)


class Carried:
    """States of the streams that a replica of a recurrent layer trains on.

    Args:
        size: S, numbers of state of a stream.
        streams: the run's streams.
        batch_size: B.
        device: of the layer.

    Attributes:
        size: S.
        lost: number of times that a stream went on from zeros, or from another window's state.
        next_batch: returns the first batch not seen by the layer's weights.
        zeros: a state without a past, (B, S).
    """

    def __init__(
        self, size: int, streams: StreamOrder, batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        self.lost = 0
        self.size = size
        self.next_batch: Callable[[], int] = lambda: 0
        self.zeros = torch.zeros(batch_size, size, device=device)
        self._streams = streams
        self._groups: dict[int, _Group] = defaultdict(_Group)

    @property
    def newest(self) -> int:
        """The last window whose state is here; -1: none."""
        return max((batch for group in self._groups.values() for batch in group.ends), default=-1)

    def take(self, batch: int) -> Tensor:
        """Return the state before a window, (B, S): zeros at an epoch's start.

        Without the state after the window before, the streams go on from what there is: the state after
        another window of the epoch, which is nearer to the truth than zeros.
        """
        before, group, seen = self._find(batch), self._group(batch), self.next_batch()
        group.before = {number: state for number, state in group.before.items() if number >= seen}
        group.before[batch] = before
        return before

    def put(self, batch: int, after: Tensor) -> None:
        """Keep the state after a window, (B, S)."""
        ends = self._group(batch).ends
        ends.pop(batch - self._streams.groups, None)
        ends[batch] = after.detach()
        if len(ends) > MOST_ENDS:
            del ends[next(iter(ends))]

    def kept(self, group: int) -> tuple[int, Tensor]:
        """Return the state of a group that the weights have seen, and the last window of that state.

        The window is -1 where there is no state.
        """
        found, seen = self._groups[group], self.next_batch()
        waiting = [batch for batch in found.before if batch >= seen]
        if waiting:
            return min(waiting) - self._streams.groups, found.before[min(waiting)]
        newest = max(found.ends, default=-1)
        return newest, found.ends.get(newest, self.zeros)

    def restore(self, group: int, batch: int, state: Tensor) -> None:
        """Go on from a state of a predecessor; a window below 0 stands for no state."""
        if batch >= 0:
            self._groups[group].ends[batch] = state.clone()

    def _group(self, batch: int) -> _Group:
        return self._groups[batch % self._streams.groups]

    def _find(self, batch: int) -> Tensor:
        streams, ends = self._streams, self._group(batch).ends
        if streams.begins(batch):
            return self.zeros
        before = batch - streams.groups
        if before not in ends:
            self.lost += len(self.zeros)
            epoch = streams.epoch(batch)
            before = max((end for end in ends if streams.epoch(end) == epoch), default=-1)
        return ends.get(before, self.zeros)


class CarriedState(Gathered):
    """Carried states as the state of a shard, k/state-r: the backup of replica r's own groups.

    Args:
        carried: the states.
        groups: of the replica.
    """

    def __init__(self, carried: Carried, groups: Iterable[int]) -> None:
        self._carried = carried
        self._states = {group: torch.zeros_like(carried.zeros) for group in groups}
        device = carried.zeros.device
        # Whole numbers of floats: the master adds up what integer buffers bring.
        self._batches = {group: torch.full((), -1.0, dtype=torch.float64, device=device) for group in groups}
        super().__init__(
            {f"state.{group}": tensor for group, tensor in self._states.items()}
            | {f"batch.{group}": tensor for group, tensor in self._batches.items()}
        )

    def gather(self) -> None:
        """Copy the states that the weights have seen into the buffer."""
        for group, tensor in self._states.items():
            batch, state = self._carried.kept(group)
            tensor.copy_(state)
            self._batches[group].fill_(batch)
        super().gather()

    def load(self, data: Raw) -> None:
        """Go on from states in the table's layout, (nbytes,) bytes.

        Raises:
            MalformedError: `data` has another length than the table's.
        """
        super().load(data)
        for group, tensor in self._states.items():
            self._carried.restore(group, int(self._batches[group]), tensor)
