"""Served synthesis: M and I of each layer, run and trained in the master for the slaves that ask. No I/O.

What they learn goes into their shards as a slave's would: every `n_push` steps, as an update, exactly once.
So it is versioned, durable and put back like any other; what was learned since the last push dies with the
master, as with a slave. Nothing of a slave is kept between two messages: with the true gradient it sends h
again, which it has kept for the layer above, and so a master that was started anew goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common import synthesizers
from common.config.sections import Config
from common.errors import FencedError, LayerwiseError, MalformedError, TooLargeError
from common.optim.stepper import Stepper
from common.shards.flat import Flat, packed, state_dict, table_of
from common.shards.working_copy import Push, Replica
from common.synthesizers import GradientSynthesizer, InputSynthesizer
from common.wire.messages import SynthesisKind, SynthesisMessage
from master.store.store import Store

# Of a synthesizer's state. It is held some six times: flat, gradients, moments, known, the shard's buffers.
MOST_BYTES = 1 << 30
# The master's own among the incarnations that push: slaves count from 1.
MASTER = 0

Shape = tuple[int, ...]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """What is said of one kind of synthesizer: the tensors of a question, of a lesson, and the answer's."""

    asked: tuple[str, ...]
    taught: tuple[str, ...]
    answer: str


FORMS = {"gradient": Form(("h", "y"), ("h", "y", "delta"), "delta"), "input": Form(("x",), ("x", "h"), "h")}


@dataclass(frozen=True)
class Place:
    """What a synthesizer is made for.

    Attributes:
        k: its layer.
        name: gradient (M_k) or input (I_k): its shard is k/name.
        shape: of one example of what it is asked with, h_k or x.
        size: of M how many classes there are, of I the shape of one example of h_{k-1}.
    """

    k: int
    name: str
    shape: Shape
    size: Shape

    def made(self, config: Config) -> GradientSynthesizer | InputSynthesizer:
        """It as a run begins with it."""
        if self.name == "gradient":
            return synthesizers.initial(config, self.k, self.shape, *self.size)
        return synthesizers.initial_input(config, self.k, self.shape, self.size)


class Synthesis:
    """The synthesizers of each layer, made when the first slave asks them.

    Used by one thread, but for `end`.
    """

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._served: dict[tuple[int, str], _Served] = {}
        self._ended = False

    def end(self) -> None:
        """The shards are being put back: nothing that was learned here may come into them any more."""
        self._ended = True

    def answer(self, k: int, message: SynthesisMessage) -> SynthesisMessage | None:
        """Take what a slave of layer k says; its answer, if it is a question.

        Raises:
            MalformedError: no such question, or not of what the synthesizer was made for: nothing changed.
                Or it has come to numbers that are not finite, and goes back to its shard.
            TooLargeError: a synthesizer for that would take more memory than any may.
            FencedError: the run has been put back meanwhile.
        """
        self._admit()
        if message.kind is SynthesisKind.SETTLE:
            for name in FORMS:
                self._settle((k, name))
            return SynthesisMessage(SynthesisKind.SETTLED)
        form = self._form(k, message.synthesizer)
        names = {SynthesisKind.ASK: form.asked, SynthesisKind.LEARN: form.taught}.get(message.kind)
        if names is None:
            raise MalformedError(f"{message.kind.name} is nothing that a slave says")
        tensors = self._checked(message, names)
        served = self._of(k, message, tuple(tensors[names[0]].shape[1:]))
        if message.kind is SynthesisKind.ASK:
            return served.made_up(message, [tensors[name] for name in names], form.answer)
        lesson = [tensors[name] for name in names]
        self._guarded((k, message.synthesizer), lambda: served.learn(message.batch, lesson))
        return None

    def settle(self) -> None:
        """Bring all that was learned into the shards."""
        for which in list(self._served):
            self._settle(which)

    def _settle(self, which: tuple[int, str]) -> None:
        if which in self._served:
            self._guarded(which, self._served[which].settle)

    def _guarded(self, which: tuple[int, str], work: Callable[[], None]) -> None:
        try:
            work()
        except LayerwiseError:
            # What was learned since cannot be had: the next question begins from the shard.
            del self._served[which]
            raise

    def _form(self, k: int, name: str) -> Form:
        decoupling = self._config.decoupling
        there = {
            "gradient": decoupling.synthesizes and k < self._config.layers,
            "input": decoupling.predicts and k > 1,
        }
        if not there.get(name):
            raise MalformedError(f'layer {k} of {self._config.layers} has no synthesizer "{name}"')
        return FORMS[name]

    def _of(self, k: int, message: SynthesisMessage, shape: Shape) -> _Served:
        name = message.synthesizer
        place = Place(k, name, shape, (message.classes,) if name == "gradient" else tuple(message.shape))
        served = self._served.get((k, name))
        if served is None:
            served = self._served[k, name] = _Served(self._config, place, self._store, self._admit)
        if served.place != place:
            there = served.place
            raise MalformedError(
                f"{k}/{name}: asked with {shape} and {place.size} where it was made for {there.shape} and "
                f"{there.size}; do all slaves have the same network?"
            )
        return served

    def _admit(self) -> None:
        if self._ended:
            raise FencedError("the run was put back; join again for a new lease")

    def _checked(self, message: SynthesisMessage, names: tuple[str, ...]) -> Tensors:
        tensors, size = state_dict(message.table, message.data), self._config.run.batch_size
        expected = {name: torch.int64 if name == "y" else torch.float32 for name in names}
        if {name: tensor.dtype for name, tensor in tensors.items()} != expected:
            raise MalformedError(f"{message.kind.name} has {sorted(tensors)}; expected {', '.join(names)}")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if not all(shape[:1] == (size,) and (len(shape) == 1) == (n == "y") for n, shape in shapes.items()):
            raise MalformedError(f"{shapes} is no batch of {size}")
        if "y" in tensors and not 0 <= int(tensors["y"].min()) <= int(tensors["y"].max()) < message.classes:
            raise MalformedError(f"batch {message.batch} has labels that are none of {message.classes}")
        if "delta" in tensors and shapes["delta"] != shapes["h"]:
            raise MalformedError(f"a gradient of {shapes['delta']} came for an h of {shapes['h']}")
        if "x" in tensors and shapes.get("h", (size, *message.shape)) != (size, *message.shape):
            raise MalformedError(f"an h of {shapes['h']} came where {message.shape} was said")
        taught = message.kind is SynthesisKind.LEARN
        if taught and not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise MalformedError(f"batch {message.batch} has NaN or Inf; nothing was learned from it")
        return tensors


class _Served:
    """One synthesizer, what steps it, and its copy of the shard."""

    def __init__(self, config: Config, place: Place, store: Store, admit: Callable[[], None]) -> None:
        _check_size(config, place)
        self.place = place
        self._store, self._admit = store, admit
        self._module = place.made(config)
        flat = Flat(self._module)
        self._stepper = Stepper(flat, config.optimizer.synthesizer, config.run.batches)
        self._replica = Replica(f"{place.k}/{place.name}", flat, config.downpour.n_push, MASTER)
        self._loss = 0.0
        first = self._replica.initial()
        store.create(first.header, [(0, first.buffer.data)], admit)
        reading = store.read(first.header.shard)
        try:
            self._replica.begin(reading.header, reading.buffer)
            self._next_batch = reading.header.next_batch
        finally:
            reading.release()

    def made_up(self, question: SynthesisMessage, asked: list[Tensor], name: str) -> SynthesisMessage:
        """Delta hat for an h, or h hat for an x."""
        module = self._module
        made = module.predict if isinstance(module, InputSynthesizer) else module.gradient
        table, data = packed({name: made(*asked)})
        return SynthesisMessage(
            SynthesisKind.SYNTHETIC, self.place.name, question.batch, loss=self._loss, table=table, data=data
        )

    def learn(self, batch: int, taught: list[Tensor]) -> None:
        """One step on what was true, and a push where one is due."""
        self._loss = float(self._module.learn(*taught))
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


def _check_size(config: Config, place: Place) -> None:
    """Refuse a synthesizer that no run has before its memory is taken.

    Raises:
        TooLargeError: it is larger than any may be.
    """
    with torch.device("meta"):
        nbytes = table_of(place.made(config)).nbytes
    if nbytes > MOST_BYTES:
        raise TooLargeError(f"{place} would take {nbytes:,} bytes; {MOST_BYTES:,} is the most")
