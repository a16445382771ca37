"""Queues of messages and events from the network's threads to the training thread."""

from __future__ import annotations

import queue
import threading

from common.net.data.pairs import slot_batch
from common.slots import Slots
from common.wire.boundary import Message


class Inbox:
    """Messages of streams and events of every kind for the training thread, in order."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()

    def put(self, event: object) -> None:
        """Add an event; from any thread."""
        self._events.put(event)

    def get(self, block: bool = True, timeout: float | None = None) -> object:
        """Return the oldest event.

        Raises:
            queue.Empty: no event waits, or came within `timeout` seconds.
        """
        event = self._events.get(block, timeout)
        return event.take() if isinstance(event, Arrivals) else event

    def empty(self) -> bool:
        """Whether no event waits."""
        return self._events.empty()

    def __len__(self) -> int:
        return self._events.qsize()


class Arrivals:
    """Messages of a stream not yet taken by the training thread.

    The inbox holds a mark for every message; a message that replaces an older message in a slot adds no mark.

    Args:
        inbox: of the training thread.
        slots: see `Slots`.
        capacity: upper bound of waiting messages.
    """

    def __init__(self, inbox: Inbox, slots: int | None, capacity: int) -> None:
        self._inbox = inbox
        self._waiting: Slots[Message] = Slots(slots)
        self._capacity = capacity
        self._lock = threading.Lock()

    def put(self, message: Message) -> bool:
        """Add a message; False where the training thread does not keep up and the capacity is reached."""
        with self._lock:
            before = len(self._waiting)
            if before >= self._capacity:
                return False
            self._waiting.put(message, slot_batch(message.kind, message.batch))
            if len(self._waiting) > before:
                self._inbox.put(self)
        return True

    def take(self) -> Message:
        """Take the oldest message."""
        with self._lock:
            return self._waiting.get()
