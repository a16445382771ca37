"""Device that a slave trains on, and the copies between the device and the process's own memory.

On a GPU the training thread only starts work. So a copy is one transfer of pinned memory for a whole message,
on a stream of its own beside the computing stream, and each stream waits for the other by events: the thread
itself waits for none of them. Nothing else in a slave knows of streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from common.config.sections import Config
from common.errors import ConfigError
from common.signals.values import Signal, join, split
from common.wire.boundary import Message

# Tensors in one transfer begin at multiples of so many bytes, which every dtype's alignment divides.
ALIGNED = 64


def choose_device(name: str, place: int = 0) -> torch.device:
    """Return the device of `--device`: auto, cpu, cuda or cuda:N.

    Args:
        name: of the device; `auto` is a GPU, or the CPU where torch sees no GPU.
        place: of the slave among those of this machine and run: they take the GPUs by turns.

    Raises:
        ConfigError: torch has no device of that name here.
    """
    if name == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        name = f"cuda:{place % count}" if count else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: is no device; use auto, cpu or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; use auto or cpu"
        )
    return device


class Event(Protocol):
    """Point in the work of a stream."""

    def synchronize(self) -> None:
        """Wait until the work before the event is done."""


class Streams(Protocol):
    """A device with two streams of work: one computes, one copies."""

    def allocate_pinned(self, nbytes: int) -> Tensor:
        """Return uint8, (nbytes,), in the process's memory, which copies can reach."""

    def record(self) -> Event:
        """Return the present end of the computing stream's work."""

    def bring(self, source: Tensor) -> tuple[Tensor, Event]:
        """Begin to copy pinned bytes, (nbytes,), to the device; the event is behind the copy."""

    def take(self, target: Tensor, source: Tensor, ready: Event) -> Event:
        """Begin to copy the device's bytes, (nbytes,), to pinned ones behind an event; return its end."""

    def wait(self, event: Event, used: Tensor) -> None:
        """Have the computing stream wait for an event, before it uses bytes that were copied, (nbytes,)."""


class Leaving:
    """Message on its way from the device to the process's memory."""

    def __init__(self, message: Message, landed: Tensor, places: Sequence[Place], copied: Event) -> None:
        self._message = message
        self._landed = landed
        self._places = places
        self._copied = copied

    def wait(self) -> Message:
        """Return the message in the process's memory, once it is there; from any thread."""
        self._copied.synchronize()
        tensors = iter(_unpack(self._landed, self._places))
        return self._message.map_tensors(lambda _: next(tensors))


class Transfers:
    """Copies between the process's memory and the device of a layer.

    Args:
        streams: of a GPU; None: the layer trains in the process's memory, and nothing is copied.
        channels_last: whether feature maps, (B, C, H, W), arrive with channels last in memory, as a GPU's
            convolutions want them. A user's unit may take views that need the usual order.
    """

    def __init__(self, streams: Streams | None = None, *, channels_last: bool = False) -> None:
        self._streams = streams
        self._channels_last = channels_last

    @staticmethod
    def of(device: torch.device | str, config: Config) -> Transfers:
        """Return the transfers of a device in a run."""
        device = torch.device(device)
        own = "network.model" not in config.user_functions
        return Transfers(None if device.type == "cpu" else CudaStreams(device), channels_last=own)

    def arrive(self, signal: Signal) -> Signal:
        """Return a signal, (B, ...), on the device; work that is started from now on sees it there."""
        if self._streams is None:
            return signal
        tensors = split(signal)
        return join(dict(zip(tensors, self._bring(list(tensors.values())), strict=True)))

    def receive(self, message: Message) -> Message:
        """Return a message with its signals on the device, as of `arrive`."""
        found = _tensors_of(message)
        if self._streams is None or not found:
            return message
        arrived = iter(self._bring(found))
        return message.map_tensors(lambda _: next(arrived))

    def leave(self, message: Message) -> Message | Leaving:
        """Begin to copy a message's signals into the process's memory, as of the work started so far."""
        found = _tensors_of(message)
        if self._streams is None or not found:
            return message
        places = _plan(found)
        if len(found) == 1:
            source = found[0].detach().contiguous().reshape(-1).view(torch.uint8)
        else:
            source = _pack(found, places, found[0].new_empty(_end(places), dtype=torch.uint8))
        landed = self._streams.allocate_pinned(source.numel())
        return Leaving(message, landed, places, self._streams.take(landed, source, self._streams.record()))

    def _bring(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        assert self._streams is not None
        places = _plan(tensors)
        packed = _pack(tensors, places, self._streams.allocate_pinned(_end(places)))
        there, copied = self._streams.bring(packed)
        self._streams.wait(copied, there)
        arrived = _unpack(there, places)
        return [_put_channels_last(each) for each in arrived] if self._channels_last else arrived


# Of layers on a CPU.
IN_MEMORY = Transfers()


class Place(NamedTuple):
    """Place of a tensor in one transfer."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def end(self) -> int:
        """Offset behind the tensor."""
        return self.offset + self.shape.numel() * self.dtype.itemsize


def _plan(tensors: Sequence[Tensor]) -> list[Place]:
    places: list[Place] = []
    for tensor in tensors:
        start = -(-_end(places) // ALIGNED) * ALIGNED
        places.append(Place(start, tensor.shape, tensor.dtype))
    return places


def _end(places: Sequence[Place]) -> int:
    return places[-1].end if places else 0


def _unpack(packed: Tensor, places: Sequence[Place]) -> list[Tensor]:
    return [packed[each.offset : each.end].view(each.dtype).view(each.shape) for each in places]


def _pack(tensors: Sequence[Tensor], places: Sequence[Place], packed: Tensor) -> Tensor:
    """Copy tensors to their places in bytes, and return the bytes."""
    for target, each in zip(_unpack(packed, places), tensors, strict=True):
        target.copy_(each.detach())
    return packed


def _tensors_of(message: Message) -> list[Tensor]:
    """Return the tensors of a message, in the order of `Message.map_tensors`."""
    return [each for signal in message.carried().values() for each in split(signal).values()]


def _put_channels_last(tensor: Tensor) -> Tensor:
    if tensor.dim() == 4 and tensor.is_floating_point():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


class CudaStreams:
    """Streams of a GPU: torch's current one computes, one of its own copies.

    torch's allocators keep memory, pinned or the device's, from new uses until the copies of it are done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copying: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def allocate_pinned(self, nbytes: int) -> Tensor:
        """Return uint8, (nbytes,), pinned."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def record(self) -> Event:
        """Return the present end of the computing stream's work."""
        return self._mark(torch.cuda.current_stream(self._device))

    def bring(self, source: Tensor) -> tuple[Tensor, Event]:
        """Begin to copy pinned bytes, (nbytes,), to the device; the event is behind the copy."""
        with torch.cuda.stream(self._copying):
            there = source.to(self._device, non_blocking=True)
            return there, self._mark(self._copying)

    def take(self, target: Tensor, source: Tensor, ready: Event) -> Event:
        """Begin to copy the device's bytes, (nbytes,), to pinned ones behind an event; return its end."""
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(ready)
            target.copy_(source, non_blocking=True)
            source.record_stream(self._copying)
            return self._mark(self._copying)

    def wait(self, event: Event, used: Tensor) -> None:
        """Have the computing stream wait for an event, before it uses bytes that were copied, (nbytes,)."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(event)  # type: ignore[arg-type]  # an event of `_mark`
        used.record_stream(computing)

    @staticmethod
    def _mark(stream: Any) -> Event:
        event: Event = stream.record_event()
        return event
