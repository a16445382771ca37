"""Places for what may be lost: of two items whose batches share a place, the newer batch's alone stays."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Slots(Generic[Item]):
    """Items on their way, oldest first; of two whose batches share a slot, b mod n, the newer batch's alone.

    The "batch trick" of Tong et al. 2016: nothing grows where a reader is slower than its writer.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._items: OrderedDict[int, tuple[int, Item]] = OrderedDict()

    def put(self, batch: int, item: Item) -> None:
        """Add one behind the others, unless a newer batch has its slot."""
        slot = batch % self._n
        if batch >= self._items.get(slot, (batch,))[0]:
            self._items[slot] = (batch, item)
            self._items.move_to_end(slot)

    def take(self) -> Item | None:
        """The oldest one, if there is one."""
        return self._items.popitem(last=False)[1][1] if self._items else None

    def __len__(self) -> int:
        return len(self._items)
