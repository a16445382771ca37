"""Check of boundary messages against the run: batches, routes, shapes and numbers. No I/O.

The check reads constants alone, so that the network's thread may refuse a message before the training thread
sees the message.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.config.sections import Config
from common.data.replicas import BatchRoutes
from common.errors import MalformedError
from common.wire.boundary import Down, End, Message, Up

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Admission:
    """Messages that a replica of layer k can use.

    Attributes:
        config: of the run.
        k: the layer.
        routes: of batches through the replica.
        below: shape of one example of h_{k-1}.
        above: shape of one example of h_k.
    """

    config: Config
    k: int
    routes: BatchRoutes
    below: Shape
    above: Shape

    def check(self, message: Message) -> None:
        """Check a message of a neighbour.

        Raises:
            MalformedError: the batch is not the run's or takes another way, or a tensor has another shape, or
                NaN or Inf.
        """
        if isinstance(message, End):
            self._check_end(message)
        elif message.batch >= self.config.batch_bound and message.direction and message.tensors:
            raise MalformedError(f"{_name(message)} is beyond the end of the run")
        elif isinstance(message, Up) and not self.routes.between(message.sender)(message.batch):
            raise MalformedError(
                f"{_name(message)} does not go from replica {message.sender} to this replica"
            )
        shape = self.below if isinstance(message, Up) else self.above
        for attribute, tensor in message.carried().items():
            self._check_tensor(message, message.tensors[attribute], tensor, shape)
        if isinstance(message, Down) and self.config.decoupling.slots is not None and message.u is None:
            raise MalformedError(f"{_name(message)} came without the tensor input, which unlock full needs")

    def _check_end(self, message: End) -> None:
        if message.batch != self.config.run.batches:
            raise MalformedError(
                f"{_name(message)} came in a run of {self.config.run.batches} batches; do all slaves have "
                "the same configuration?"
            )

    def _check_tensor(self, message: Message, name: str, tensor: Tensor, shape: Shape) -> None:
        came, due = tuple(tensor.shape), (self.config.run.batch_size, *shape)
        if came != due:
            raise MalformedError(
                f'tensor "{name}" of {_name(message)} came as {came}, not {due}; do all slaves have the same '
                "network?"
            )
        if not is_finite(tensor):
            raise MalformedError(f'tensor "{name}" of {_name(message)} has NaN or Inf')


def is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite.

    The sum decides nearly always, in one pass without memory; only a sum of finite numbers may overflow.
    """
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _name(message: Message) -> str:
    return f"{message.kind.name} of batch {message.batch}"
