"""A device for tests on a CPU whose copies are late: work that does not wait for them is caught.

Two streams as on a GPU: the computing one is this thread, under `RacingDevice` as a dispatch mode of torch;
the copying one is a queue. Until somebody waits for a copy, its target is full of NaN, and an operation on it
fails. A copy out of the device fails where its event came before the operation that wrote the tensor, or
where the tensor has changed when the copy is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter

from slave.training.device import Event


@dataclass
class Copy:
    """Copy that waits in the copying stream."""

    target: Tensor
    source: Tensor
    # The source's bytes when the copy was ordered.
    ordered: Tensor


@dataclass
class Mark:
    """Event: behind so many copies of the copying stream, or so many operations of the computing stream."""

    device: RacingDevice
    copies: int = 0
    operations: int = 0

    def synchronize(self) -> None:
        """Have the copies before the event made."""
        self.device.make_copies(self.copies)


class RacingDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class
    """Streams of a device (`slave.training.device.Streams`), and the mode that watches the computing stream.

    Attributes:
        made: number of copies that are done.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made = 0
        self._ordered = 0
        self._waiting: list[Copy] = []
        self._operations = 0
        # Memory -> number of the operation that wrote it last.
        self._written: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation of the computing stream, unless it takes what a copy has yet to bring."""
        late = {_memory(copy.target) for copy in self._waiting}
        for tensor in _tensors((args, kwargs)):
            assert _memory(tensor) not in late, f"{func} takes a tensor whose copy was not waited for"
        result = func(*args, **(kwargs or {}))
        self._operations += 1
        for tensor in _tensors(result):
            self._written[_memory(tensor)] = self._operations
        return result

    def allocate_pinned(self, nbytes: int) -> Tensor:
        """Return uint8, (nbytes,)."""
        return torch.empty(nbytes, dtype=torch.uint8)

    def record(self) -> Mark:
        """Return the present end of the computing stream's work."""
        return Mark(self, operations=self._operations)

    def bring(self, source: Tensor) -> tuple[Tensor, Mark]:
        """Order a copy to the device."""
        with _disable_current_modes():
            target = torch.empty_like(source)
        return target, self._order(target, source)

    def take(self, target: Tensor, source: Tensor, ready: Event) -> Mark:
        """Order a copy out of the device, behind an event."""
        assert isinstance(ready, Mark)
        written = self._written.get(_memory(source), 0)
        assert ready.operations >= written, "a tensor is copied that is not computed at the event"
        return self._order(target, source)

    def wait(self, event: Event, used: Tensor) -> None:
        """Have the copies before the event made: this thread is the computing stream."""
        event.synchronize()

    def make_copies(self, count: int) -> None:
        """Make copies until so many are done."""
        with _disable_current_modes():
            while self.made < count:
                copy = self._waiting.pop(0)
                assert torch.equal(copy.source, copy.ordered), "a tensor has changed under its copy"
                copy.target.copy_(copy.source)
                self.made += 1

    def _order(self, target: Tensor, source: Tensor) -> Mark:
        with _disable_current_modes():
            # NaN as a float, and no token of any vocabulary as an integer.
            target.fill_(255)
            self._waiting.append(Copy(target, source, source.clone()))
        self._ordered += 1
        return Mark(self, copies=self._ordered)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (each for each in tree_iter(tree) if isinstance(each, Tensor))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
