"""Messages on their way between the network's thread and the training thread, and from there to a stream."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

from common.messages import BoundaryKind
from slave.decoupling import Message

Item = TypeVar("Item")

_DATA = (BoundaryKind.ACTIVATION, BoundaryKind.GRADIENT)


class Slots(Generic[Item]):
    """Items on their way, oldest first; of two whose batches share a slot, b mod n, the newer batch alone.

    Args:
        n: how many slots there are: no more items of batches can wait. None: every item has its own place.
    """

    def __init__(self, n: int | None = None) -> None:
        self._n = n
        # By slot; what has none, by a negative number.
        self._items: OrderedDict[int, tuple[int, Item]] = OrderedDict()
        self._unslotted = 0

    def put(self, item: Item, batch: int | None = None) -> None:
        """Add one behind the others; without a batch, one that nothing takes the place of."""
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


def slot_of(message: Message) -> int | None:
    """The batch by which a message has a slot; None for what is never dropped."""
    return message.batch if message.kind in _DATA else None


class Outgoing:
    """Encoded messages that wait to be written to one stream; on the event loop's thread.

    Args:
        slots: see `Slots`.
        capacity: so many may wait; None: the windows bound them.
    """

    def __init__(self, slots: int | None, capacity: int | None = None) -> None:
        self._waiting: Slots[bytes] = Slots(slots)
        self._capacity = capacity
        self._some = asyncio.Event()
        self._closed = False

    def put(self, message: Message, encoded: bytes) -> bool:
        """Add one; False if so many wait that whoever reads them does not keep up."""
        if self._capacity is not None and len(self._waiting) >= self._capacity:
            return False
        self._waiting.put(encoded, slot_of(message))
        self._some.set()
        return True

    def clear(self) -> None:
        """Drop what waits."""
        self._waiting.clear()

    def close(self) -> None:
        """Let the reader end at once: what waits goes with the stream."""
        self._closed = True
        self._some.set()

    async def get(self) -> bytes | None:
        """The oldest one, as soon as there is one; None once closed."""
        while not self._closed and not len(self._waiting):
            self._some.clear()
            await self._some.wait()
        return None if self._closed else self._waiting.get()


class Inbox:
    """What has come for the training thread, in order: messages of streams, and all kinds of events."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()

    def put(self, event: object) -> None:
        """Add one; from any thread."""
        self._events.put(event)

    def get(self, block: bool = True, timeout: float | None = None) -> object:
        """The oldest one.

        Raises:
            queue.Empty: there is none, or has been none for `timeout` seconds.
        """
        event = self._events.get(block, timeout)
        return event.taken() if isinstance(event, Arrivals) else event

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._events.empty()

    def __len__(self) -> int:
        return self._events.qsize()


class Arrivals:
    """What one stream has brought and the training thread has not taken yet.

    In the inbox there stands one mark for each message here: of a message that is newer than one in the same
    slot, no further one is needed.

    Args:
        inbox: of the training thread.
        slots: see `Slots`.
        capacity: so many may wait; None: the sender's window bounds them.
    """

    def __init__(self, inbox: Inbox, slots: int | None, capacity: int | None = None) -> None:
        self._inbox = inbox
        self._waiting: Slots[Message] = Slots(slots)
        self._capacity = capacity
        self._lock = threading.Lock()

    def put(self, message: Message) -> bool:
        """Add one; False if so many wait that the training thread does not keep up."""
        with self._lock:
            before = len(self._waiting)
            if self._capacity is not None and before >= self._capacity:
                return False
            self._waiting.put(message, slot_of(message))
            if len(self._waiting) > before:
                self._inbox.put(self)
        return True

    def taken(self) -> Message:
        """The oldest one."""
        with self._lock:
            return self._waiting.get()
