"""Places for what may be lost: of two items whose batches share a place, the newer batch's alone stays."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Slots(Generic[Item]):
    """Items on their way, oldest first; of two whose batches share a slot, b mod n, the newer batch's alone.

    The "batch trick" of Tong et al. 2016: nothing grows where a reader is slower than its writer.

    Args:
        n: how many slots there are: no more items of batches can wait. None: every item has its own place.
    """

    def __init__(self, n: int | None = None) -> None:
        self._n = n
        # By slot; what has none, by a negative number.
        self._items: OrderedDict[int, tuple[int, Item]] = OrderedDict()
        self._unslotted = 0

    def put(self, item: Item, batch: int | None = None) -> None:
        """Add one behind the others, unless a newer batch has its slot; without a batch none can."""
        if self._n is None or batch is None:
            self._unslotted -= 1
            self._items[self._unslotted] = (0, item)
            return
        slot = batch % self._n
        if batch >= self._items.get(slot, (batch,))[0]:
            self._items[slot] = (batch, item)
            self._items.move_to_end(slot)

    def get(self) -> Item:
        """The oldest one.

        Raises:
            KeyError: there is none.
        """
        return self._items.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Drop all of them."""
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)
