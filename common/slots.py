"""A queue of bounded length for messages that may be lost: the newest batch of a slot replaces older ones."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Slots(Generic[Item]):
    """Queue of items, oldest first; of two items in a slot, b mod n, only the newer batch's stays.

    The "batch trick" of Tong et al. 2016: the queue does not grow where a reader is slower than its writer.

    Args:
        n: number of slots, hence the most items of batches that can wait. None: every item has its own slot.
    """

    def __init__(self, n: int | None = None) -> None:
        self._n = n
        # Keyed by slot; items without a slot have negative keys.
        self._items: OrderedDict[int, tuple[int, Item]] = OrderedDict()
        self._unslotted = 0

    def put(self, item: Item, batch: int | None = None) -> None:
        """Append an item, unless the slot holds a newer batch; an item without a batch is always appended."""
        if self._n is None or batch is None:
            self._unslotted -= 1
            self._items[self._unslotted] = (0, item)
            return
        slot = batch % self._n
        if batch >= self._items.get(slot, (batch,))[0]:
            self._items[slot] = (batch, item)
            self._items.move_to_end(slot)

    def get(self) -> Item:
        """Remove and return the oldest item.

        Raises:
            KeyError: the queue is empty.
        """
        return self._items.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Drop all items."""
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)
