"""Served synthesis: M of each layer, run and trained in the master for the slaves that ask. No I/O, no clock.

What M learns goes into its shard as a slave's would: every `n_push` steps, as an update, exactly once. So it
is versioned, durable and put back like any other; what it learned since the last push dies with the master,
as with a slave. Nothing of a slave is kept between two messages: with the true gradient it sends h again,
which it has kept for the layer above, and so a master that was started anew goes on with the next message.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common import synthesizers
from common.config import Config
from common.errors import FencedError, LayerwiseError, MalformedError, TooLargeError
from common.flat import Flat, packed, state_dict, table_of
from common.messages import SynthesisKind, SynthesisMessage
from common.replica import Push, Replica
from common.schedule import Stepper
from master.store import Store

# Of M's state. It is held about six times over: flat, gradients, two moments, known, the shard's two buffers.
MOST_BYTES = 1 << 30
# The master's own among the incarnations that push: slaves count from 1.
MASTER = 0

Shape = tuple[int, ...]


class Synthesis:
    """M of each layer, made when the first slave asks it.

    Used by one thread, but for `end`.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._served: dict[int, _Served] = {}
        self._ended = False

    def end(self) -> None:
        """The shards are being put back: nothing that was learned here may come into them any more."""
        self._ended = True

    def answer(self, k: int, message: SynthesisMessage) -> SynthesisMessage | None:
        """Take what a slave of layer k says; its answer, if it is a question.

        Raises:
            MalformedError: no such question, or not of the h that M was made for; nothing was changed. Or M
                has come to numbers that are not finite: it goes back to its shard.
            TooLargeError: an M for that h would take more memory than any may.
            FencedError: the run has been put back meanwhile.
        """
        self._admit()
        if k >= self._config.layers or message.synthesizer != "gradient":
            raise MalformedError(
                f'layer {k} of {self._config.layers} has no synthesizer "{message.synthesizer}"'
            )
        if message.kind is SynthesisKind.SETTLE:
            self._settle(k)
            return SynthesisMessage(SynthesisKind.SETTLED)
        names = {SynthesisKind.ASK: ("h", "y"), SynthesisKind.LEARN: ("h", "y", "delta")}.get(message.kind)
        if names is None:
            raise MalformedError(f"{message.kind.name} is nothing that a slave says")
        tensors = self._checked(message, names)
        served = self._of(k, tuple(tensors["h"].shape[1:]), message.classes)
        if message.kind is SynthesisKind.ASK:
            return served.made_up(message.batch, tensors["h"], tensors["y"])
        self._guarded(k, lambda: served.learn(message.batch, tensors["h"], tensors["y"], tensors["delta"]))
        return None

    def settle(self) -> None:
        """Bring all that was learned into the shards."""
        for k in list(self._served):
            self._settle(k)

    def _settle(self, k: int) -> None:
        if k in self._served:
            self._guarded(k, self._served[k].settle)

    def _guarded(self, k: int, work: Callable[[], None]) -> None:
        try:
            work()
        except LayerwiseError:
            # What it has learned since cannot be had: the next question begins from the shard.
            del self._served[k]
            raise

    def _of(self, k: int, shape: Shape, classes: int) -> _Served:
        served = self._served.get(k)
        if served is None:
            served = self._served[k] = _Served(self._config, k, shape, classes, self._store, self._admit)
        served.check(shape, classes)
        return served

    def _admit(self) -> None:
        if self._ended:
            raise FencedError("the run was put back; join again for a new lease")

    def _checked(self, message: SynthesisMessage, names: tuple[str, ...]) -> dict[str, Tensor]:
        tensors = state_dict(message.table, message.data)
        expected = {name: torch.int64 if name == "y" else torch.float32 for name in names}
        if {name: tensor.dtype for name, tensor in tensors.items()} != expected:
            raise MalformedError(f"{message.kind.name} has {sorted(tensors)}; expected {', '.join(names)}")
        h, y, size = tensors["h"], tensors["y"], self._config.run.batch_size
        if len(h.shape) < 2 or len(h) != size or tuple(y.shape) != (size,):
            raise MalformedError(f"h {tuple(h.shape)} and y {tuple(y.shape)} are no batch of {size}")
        if y.min() < 0 or y.max() >= message.classes:
            raise MalformedError(f"a label of {int(y.min())}..{int(y.max())} is none of {message.classes}")
        delta = tensors.get("delta")
        if delta is not None and delta.shape != h.shape:
            raise MalformedError(f"a gradient of {tuple(delta.shape)} came for an h of {tuple(h.shape)}")
        if delta is not None and not (h.isfinite().all() and delta.isfinite().all()):
            raise MalformedError(f"batch {message.batch} has NaN or Inf; M learned nothing from it")
        return tensors


class _Served:
    """M_k, what steps it, and its copy of the shard."""

    def __init__(
        self, config: Config, k: int, shape: Shape, classes: int, store: Store, admit: Callable[[], None]
    ) -> None:
        _check_size(config, shape, classes)
        self._made_for = (shape, classes)
        self._store, self._admit = store, admit
        self._module = synthesizers.initial(config, k, shape, classes)
        flat = Flat(self._module)
        self._stepper = Stepper(flat, config.optimizer.synthesizer, config.run.batches)
        self._replica = Replica(f"{k}/gradient", flat, config.downpour.n_push, MASTER)
        self._loss = 0.0
        first = self._replica.initial()
        store.create(first.header, [(0, first.buffer.data)], admit)
        reading = store.read(first.header.shard)
        try:
            self._replica.begin(reading.header, reading.buffer)
            self._next_batch = reading.header.next_batch
        finally:
            reading.release()

    def check(self, shape: Shape, classes: int) -> None:
        """Whether M is for such an h.

        Raises:
            MalformedError: it is not.
        """
        if (shape, classes) != self._made_for:
            raise MalformedError(
                f"an h of {shape} with {classes} classes came where M was made for {self._made_for[0]} with "
                f"{self._made_for[1]}; do all slaves have the same network?"
            )

    def made_up(self, batch: int, h: Tensor, y: Tensor) -> SynthesisMessage:
        """Delta hat for an h."""
        table, data = packed({"delta": self._module.gradient(h, y)})
        kind = SynthesisKind.SYNTHETIC
        return SynthesisMessage(kind, batch=batch, loss=self._loss, table=table, data=data)

    def learn(self, batch: int, h: Tensor, y: Tensor, delta: Tensor) -> None:
        """One step of M on the true gradient, and a push where one is due."""
        self._loss = float(self._module.learn(h, y, delta))
        self._stepper.step(batch)
        self._next_batch = max(self._next_batch, batch + 1)
        self._push(self._replica.due(self._stepper.steps, self._next_batch))

    def settle(self) -> None:
        """Bring all that was learned into the shard."""
        self._push(self._replica.flush(self._stepper.steps, self._next_batch))

    def _push(self, push: Push | None) -> None:
        if push is not None:
            reply = self._store.apply(push.header, [(0, push.buffer.data)], self._admit)
            self._replica.answered(reply)


def _check_size(config: Config, shape: Shape, classes: int) -> None:
    """Refuse an M that no run has before its memory is taken.

    Raises:
        TooLargeError: it is larger than any may be.
    """
    with torch.device("meta"):
        nbytes = table_of(synthesizers.build(config.decoupling, shape, classes)).nbytes
    if nbytes > MOST_BYTES:
        raise TooLargeError(f"an M for h of {shape} would take {nbytes:,} bytes; {MOST_BYTES:,} is the most")
