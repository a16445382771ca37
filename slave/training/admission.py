"""Check of boundary messages against the run: batches, routes, shapes and numbers. No I/O.

The check reads constants alone, so that the network's thread may refuse a message before the training thread
sees the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.config.sections import Config
from common.data.replicas import BatchRoutes
from common.errors import MalformedError
from common.signals.forms import FLOAT, PLAIN, SignalForm, TensorForm, list_names
from common.signals.values import Signal, is_finite, name_dtype, split
from common.wire.boundary import Down, End, Message, OutputGradient, Up


@dataclass(frozen=True)
class Admission:
    """Messages that a replica of layer k can use.

    Attributes:
        config: of the run.
        k: the layer.
        routes: of batches through the replica.
        below: form of h_{k-1}.
        gradient: form of what comes down.
    """

    config: Config
    k: int
    routes: BatchRoutes
    below: SignalForm
    gradient: SignalForm

    def check(self, message: Message) -> None:
        """Check a message of a neighbour.

        Raises:
            MalformedError: the batch is not the run's or takes another way, or a tensor has another shape, or
                NaN or Inf.
        """
        if isinstance(message, End):
            self._check_end(message)
        elif message.batch >= self.config.batch_bound and message.direction and message.signals:
            raise MalformedError(f"{_name(message)} is beyond the end of the run")
        elif isinstance(message, Up) and not self.routes.between(message.sender)(message.batch):
            raise MalformedError(
                f"{_name(message)} does not go from replica {message.sender} to this replica"
            )
        if isinstance(message, OutputGradient) and not self.config.decoupling.broadcasts:
            raise MalformedError(
                f"{_name(message)} came in a run where layers hear nothing from layer K; do all slaves "
                "have the same configuration?"
            )
        form = self.below if isinstance(message, Up) else self.gradient
        for attribute, signal in message.carried().items():
            check_form(
                signal, form, self.config.run.batch_size, message.signals[attribute], f"of {_name(message)}"
            )
            if not is_finite(signal):
                raise MalformedError(
                    f'tensor "{message.signals[attribute]}" of {_name(message)} has NaN or Inf'
                )
        if isinstance(message, Down) and self.config.decoupling.slots is not None and message.u is None:
            raise MalformedError(f"{_name(message)} came without the tensor input, which unlock full needs")

    def _check_end(self, message: End) -> None:
        # Less where other replicas follow.
        if message.batch > self.config.run.batches:
            raise MalformedError(
                f"{_name(message)} came in a run of {self.config.run.batches} batches; do all slaves have "
                "the same configuration?"
            )


def check_form(signal: Signal, form: SignalForm, batch_size: int, name: str, where: str) -> None:
    """Check the names, shapes and dtypes of a signal that a neighbour sent.

    Args:
        signal: as sent.
        form: expected.
        batch_size: number of examples.
        name: of the signal, for messages.
        where: place of the signal, for messages.

    Raises:
        MalformedError: another form.
    """
    tensors = split(signal)
    if tensors.keys() != form.tensors.keys():
        raise MalformedError(
            f"{name} {where} came as {list_names(tensors)}, not {list_names(form.tensors)}; do all slaves "
            "have the same network?"
        )
    for key, tensor in tensors.items():
        _check_tensor(tensor, form.tensors[key], batch_size, key if key != PLAIN else name, where)


def _check_tensor(tensor: Tensor, form: TensorForm, batch_size: int, name: str, where: str) -> None:
    came, due = (name_dtype(tensor), tuple(tensor.shape)), (form.dtype, (batch_size, *form.shape))
    if came != due:
        told = [shape if dtype == FLOAT else f"{dtype} {shape}" for dtype, shape in (came, due)]
        raise MalformedError(
            f'tensor "{name}" {where} came as {told[0]}, not {told[1]}; do all slaves have the same network?'
        )


def _name(message: Message) -> str:
    return f"{message.kind.name} of batch {message.batch}"
