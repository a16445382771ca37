"""Module whose state is one flat buffer: the form that shards, optimizers and pushes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.utils.dlpack import from_dlpack

from common.errors import ConfigError, MalformedError
from common.shards.table import ITEMSIZES, Kind, Raw, Table, TensorSpec, lay_out


class Flat:
    """Module whose parameters and buffers live in flat memory.

    The module is moved to `device` and the tensors become views; results do not change. A gradient stays in
    the parameter's `.grad`, where backward created it: a flat copy, added to and cleared, would cost three
    passes over as many bytes as the weights have. A parameter with `requires_grad=False` is frozen.
    A parameter under several names (tied weights) is kept once, under the first name.

    Torch does not see that a step on `parameters` changes the module's weights: a backward through a forward
    made before the step is not refused, but mixes old activations with new weights. Never step in between.

    Attributes:
        module: the module.
        table: the layout of the buffer.
        buffer: uint8, (nbytes,): the whole state.
        parameters: float32, (P,), over the buffer's beginning.
        learned: the module's trainable parameters, in module order: views of `parameters`.

    Raises:
        ConfigError: two names for one buffer, or a dtype that no shard holds.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        self.module = module.to(device)
        self.table = table_of(module)
        self.buffer = torch.zeros(self.table.nbytes, dtype=torch.uint8, device=device)
        self.parameters = self.buffer[: self.table.parameters_nbytes].view(torch.float32)
        self._views = {spec.name: _view(self.buffer, spec) for spec in self.table.tensors}
        for owner, name, path, tensor in _state(module):
            view = self._views[path].copy_(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                tensor.data = view
            else:
                setattr(owner, name, view)
        self.learned: list[torch.Tensor] = [each for each in module.parameters() if each.requires_grad]
        self.clear_gradients()

    def gradients(self) -> list[torch.Tensor]:
        """Gradients accumulated since the last `clear_gradients`, ordered as `learned`; zeros if missing."""
        return [torch.zeros_like(w) if w.grad is None else w.grad for w in self.learned]

    def clear_gradients(self) -> None:
        """Drop every gradient."""
        for parameter in self.learned:
            parameter.grad = None

    def split(self, numbers: torch.Tensor) -> list[torch.Tensor]:
        """Split a number for every parameter, (P,), into views shaped as `learned`."""
        parts = torch.split(numbers, [each.numel() for each in self.learned])
        return [part.view_as(each) for part, each in zip(parts, self.learned, strict=True)]

    def load(self, data: Raw) -> None:
        """Copy a whole state, (nbytes,) bytes in the table's layout, over the present state.

        Raises:
            MalformedError: `data` has another length than the table's.
        """
        source = np.frombuffer(data, dtype=np.uint8)
        if source.nbytes != self.table.nbytes:
            raise MalformedError(f"state has {source.nbytes} bytes, but its table has {self.table.nbytes}")
        if self.buffer.device.type == "cpu":
            np.copyto(self.buffer.numpy(), source)
        else:
            self.buffer.copy_(torch.from_numpy(source.copy()))

    def gather(self) -> None:
        """Copy buffers that the module's forward replaced (`self.mean = ...`) back into flat memory.

        Needed before the state is read, for users' modules alone: torch's own modules change buffers in
        place.
        """
        for owner, name, path, tensor in _state(self.module):
            view = self._views[path]
            if tensor is not view and not isinstance(tensor, nn.Parameter):
                setattr(owner, name, view.copy_(tensor.detach()))

    @contextmanager
    def shift(self, change: torch.Tensor, factor: float) -> Iterator[None]:
        """Move the parameters by `factor` x `change`, (P,), until the end of the context."""
        kept = self.parameters.clone()
        self.parameters.add_(change, alpha=factor)
        try:
            yield
        finally:
            self.parameters.copy_(kept)

    @contextmanager
    def keep_buffers(self) -> Iterator[None]:
        """Restore every buffer at the end of the context: for a forward that must not move statistics."""
        self.gather()
        buffers = self.buffer[self.table.parameters_nbytes : self.table.pushed.nbytes]
        kept = buffers.clone()
        try:
            yield
        finally:
            self.gather()
            buffers.copy_(kept)


def table_of(module: nn.Module) -> Table:
    """Build the table of a module's state; non-persistent buffers are left out.

    Raises:
        ConfigError: two names for one buffer, or a dtype that no shard holds.
    """
    names: dict[int, str] = {}
    tensors: list[tuple[str, str, tuple[int, ...], Kind]] = []
    for _, _, path, tensor in _state(module):
        known = names.setdefault(id(tensor), path)
        if known != path:
            raise ConfigError(f"{known} and {path} are one buffer; register a buffer of its own for each")
        dtype = str(tensor.dtype).removeprefix("torch.")
        kind = _kind(tensor)
        if kind == "parameter" and dtype != "float32":
            raise ConfigError(f"parameter {path} is {dtype}; parameters must be float32")
        if dtype not in ITEMSIZES:
            allowed = ", ".join(ITEMSIZES)
            raise ConfigError(f"{path} is {dtype}; buffers and frozen parameters may be {allowed}")
        tensors.append((path, dtype, tuple(tensor.shape), kind))
    return lay_out(tensors)


def _kind(tensor: torch.Tensor) -> Kind:
    if tensor.requires_grad:
        return "parameter"
    return "frozen" if isinstance(tensor, nn.Parameter) else "buffer"


def state_dict(table: Table, data: Raw) -> dict[str, torch.Tensor]:
    """Copy a state in the table's layout, (nbytes,) bytes, into tensors for `load_state_dict`.

    Raises:
        MalformedError: `data` has another length than the table's.
    """
    return {name: torch.from_numpy(array.copy()) for name, array in table.arrays(data).items()}


def pack(tensors: Mapping[str, torch.Tensor]) -> tuple[Table, memoryview]:
    """Lay tensors out as buffers: return the table, and the bytes in the table's layout, for `state_dict`."""
    table = _buffer_table(
        tuple((name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items())
    )
    data = np.zeros(table.nbytes, np.uint8)
    for name, array in table.arrays(data).items():
        np.copyto(array, tensors[name].detach().cpu().numpy())
    return table, data.data


@lru_cache(maxsize=64)
def _buffer_table(tensors: tuple[tuple[str, str, tuple[int, ...]], ...]) -> Table:
    return lay_out((*tensor, "buffer") for tensor in tensors)


def _state(module: nn.Module) -> Iterator[tuple[nn.Module, str, str, torch.Tensor]]:
    """Yield (owner, name, dotted name, tensor) of every parameter, then of every persistent buffer.

    Modules and parameters with several names come once, under the first.
    """
    owners = list(module.named_modules())
    known: set[int] = set()
    for prefix, owner in owners:
        for name, parameter in owner._parameters.items():
            if parameter is not None and id(parameter) not in known:
                known.add(id(parameter))
                yield owner, name, f"{prefix}.{name}".lstrip("."), parameter
    for prefix, owner in owners:
        for name, buffer in owner._buffers.items():
            if buffer is not None and name not in owner._non_persistent_buffers_set:
                yield owner, name, f"{prefix}.{name}".lstrip("."), buffer


def _view(buffer: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    # DLPack gives the view its own storage and version counter. Plain views share both: a backward through
    # one batch normalization would be refused because the next one has moved its statistics, and
    # `torch.compile` does not accept a network of which a part changes.
    region = buffer[spec.offset : spec.offset + spec.nbytes]
    return from_dlpack(region.view(getattr(torch, spec.dtype)).view(spec.shape))
