"""Messages on their way between the network's thread and the training thread, and from there to a stream."""

from __future__ import annotations

import asyncio
import queue
import threading

from common.net.data.streams import Parts
from common.slots import Slots
from common.wire.messages import BoundaryKind
from slave.training.decoupling import Message

_DATA = (BoundaryKind.ACTIVATION, BoundaryKind.GRADIENT)


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
        self._waiting: Slots[Parts] = Slots(slots)
        self._capacity = capacity
        self._some = asyncio.Event()
        self._closed = False

    def put(self, message: Message, encoded: Parts) -> bool:
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

    async def get(self) -> Parts | None:
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
