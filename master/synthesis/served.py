"""Served synthesis: M and I of every layer, computed and trained in the master. No I/O.

A synthesizer pushes to its shard as a slave does: an update every `n_push` steps, exactly once. Shards of M
and I are therefore versioned, durable and put back like the rest; the steps since the last push die with the
master. The master keeps no tensors between messages: with a true gradient a slave sends h again, so a
restarted master goes on with the next message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common import synthesizers, tasks
from common.config.sections import Config
from common.data.targets import Targets
from common.errors import FencedError, LayerwiseError, MalformedError, TooLargeError
from common.optim.lessons import teach
from common.optim.stepper import Stepper
from common.shards.flat import Flat, pack, state_dict, table_of
from common.shards.working_copy import Push, WorkingCopy
from common.signals.forms import TensorForm
from common.synthesizers import GradientSynthesizer, InputSynthesizer
from common.wire.messages import SynthesisKind, SynthesisMessage
from master.store.store import Store

# Largest state of a synthesizer; memory holds some six copies (gradients, moments, the shard's buffers, ...).
MOST_BYTES = 1 << 30
# Incarnation of the master's own pushes; slaves count from 1.
MASTER = 0

Shape = tuple[int, ...]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """Tensors of a synthesizer's messages: names in a question, in a lesson, and in an answer."""

    question: tuple[str, ...]
    lesson: tuple[str, ...]
    answer: str


FORMS = {"gradient": Form(("h", "y"), ("h", "y", "delta"), "delta"), "input": Form(("x",), ("x", "h"), "h")}


@dataclass(frozen=True)
class SynthesizerSite:
    """Layer and shapes of a synthesizer.

    Attributes:
        k: the layer.
        name: gradient (M_k) or input (I_k); the shard is k/name.
        shape: of an example of the input, h_k or x.
        size: for M the number of classes (0: floats) and the shape of an example's target; for I the number
            of tokens (0: floats) and the shape of an example of h_{k-1}.
    """

    k: int
    name: str
    shape: Shape
    size: Shape

    def build(self, config: Config) -> GradientSynthesizer | InputSynthesizer:
        """Build the synthesizer with the run's initial state."""
        if self.name == "gradient":
            task = tasks.build(config.task, Targets(self.size[0], self.size[1:]))
            return synthesizers.initial(config, self.k, self.shape, task)
        tokens = self.size[0]
        taken = TensorForm(self.shape, "int64", tokens) if tokens else TensorForm(self.shape)
        return synthesizers.initial_input(config, self.k, taken, self.size[1:])


class Synthesis:
    """Synthesizers of every layer, built at a layer's first message. For one thread, `end` aside."""

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._served: dict[tuple[int, str], ServedSynthesizer] = {}
        self._ended = False

    def end(self) -> None:
        """Refuse all further pushes: the shards are being put back."""
        self._ended = True

    def answer(self, k: int, message: SynthesisMessage) -> SynthesisMessage | None:
        """Process a message from a slave of layer k, and answer a question.

        Raises:
            MalformedError: an invalid message, or shapes that the synthesizer was not built for; no state has
                changed. Or the synthesizer's numbers are no longer finite: its state is read from the shard
                again.
            TooLargeError: a synthesizer of the shapes would take too much memory.
            FencedError: the run has been put back to a snapshot.
        """
        self._admit()
        if message.kind is SynthesisKind.SETTLE:
            for name in FORMS:
                self._settle((k, name))
            return SynthesisMessage(SynthesisKind.SETTLED)
        if message.batch >= self._config.batch_bound:
            raise MalformedError(f"batch = {message.batch} is beyond the end of the run")
        form = self._form(k, message.synthesizer)
        names = {SynthesisKind.ASK: form.question, SynthesisKind.LEARN: form.lesson}.get(message.kind)
        if names is None:
            raise MalformedError(f"{message.kind.name} is no message of a slave")
        tensors = self._unpack(message, names)
        served = self._find(k, message, tensors)
        if message.kind is SynthesisKind.ASK:
            return served.predict(message, [tensors[name] for name in names], form.answer)
        lesson = [tensors[name] for name in names]
        self._guard((k, message.synthesizer), lambda: served.learn(message.batch, lesson))
        return None

    def settle(self) -> None:
        """Push the latest steps of every synthesizer."""
        for which in list(self._served):
            self._settle(which)

    def _settle(self, which: tuple[int, str]) -> None:
        if which in self._served:
            self._guard(which, self._served[which].settle)

    def _guard(self, which: tuple[int, str], work: Callable[[], None]) -> None:
        try:
            work()
        except LayerwiseError:
            # The steps since the last push are lost: the next message begins from the shard.
            del self._served[which]
            raise

    def _form(self, k: int, name: str) -> Form:
        decoupling = self._config.decoupling
        available = {
            "gradient": decoupling.row.synthesizes and k < self._config.layers,
            "input": decoupling.row.predicts and k > 1,
        }
        if not available.get(name):
            raise MalformedError(f'layer {k} of {self._config.layers} has no synthesizer "{name}"')
        return FORMS[name]

    def _find(self, k: int, message: SynthesisMessage, tensors: Tensors) -> ServedSynthesizer:
        name = message.synthesizer
        if name == "gradient":
            shape, size = tensors["h"].shape[1:], (message.classes, *tensors["y"].shape[1:])
        else:
            shape, size = tensors["x"].shape[1:], (message.classes, *message.shape)
        site = SynthesizerSite(k, name, shape, size)
        served = self._served.get((k, name))
        if served is None:
            served = self._served[k, name] = ServedSynthesizer(self._config, site, self._store, self._admit)
        if served.site != site:
            expected = served.site
            raise MalformedError(
                f"{k}/{name}: got {shape} and {size} where {expected.shape} and {expected.size} are due; do "
                "all slaves have the same network?"
            )
        return served

    def _admit(self) -> None:
        if self._ended:
            raise FencedError("the run was put back; join again for a new lease")

    def _unpack(self, message: SynthesisMessage, names: tuple[str, ...]) -> Tensors:
        tensors, size = state_dict(message.table, message.data), self._config.run.batch_size
        expected = dict.fromkeys(names, torch.float32)
        counted = "y" if "y" in expected else "x"
        if message.classes:
            expected[counted] = torch.int64
        if {name: tensor.dtype for name, tensor in tensors.items()} != expected:
            raise MalformedError(f"{message.kind.name} has {sorted(tensors)}; expected {', '.join(names)}")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        dimensions = self._config.task.row.targets.dimensions
        if not all(
            shape[:1] == (size,) and (len(shape) in dimensions if name == "y" else len(shape) > 1)
            for name, shape in shapes.items()
        ):
            raise MalformedError(f"{shapes} is no batch of {size}")
        self._check_values(message, counted, tensors[counted])
        if "delta" in tensors and shapes["delta"] != shapes["h"]:
            raise MalformedError(f"a gradient of {shapes['delta']} came for an h of {shapes['h']}")
        if "x" in tensors and shapes.get("h", (size, *message.shape)) != (size, *message.shape):
            raise MalformedError(f"an h of {shapes['h']} came where {message.shape} was announced")
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise MalformedError(
                f"batch {message.batch} has NaN or Inf; nothing was learned from it; if training has "
                "diverged, lower optimizer.learning_rate"
            )
        return tensors

    def _check_values(self, message: SynthesisMessage, name: str, values: Tensor) -> None:
        """Check whole targets or inputs against their range, and the kind of the targets."""
        rule, whole = self._config.task.row.targets, message.classes > 0
        if name == "y":
            if rule.integers not in (None, whole):
                raise MalformedError(f"classes = {message.classes} does not fit the targets of the task")
            values = values if rule.ignored is None else values[values != rule.ignored]
        if whole and values.numel() and not 0 <= int(values.min()) <= int(values.max()) < message.classes:
            raise MalformedError(
                f"batch {message.batch} has labels or tokens outside of 0..{message.classes - 1}"
            )


class ServedSynthesizer:
    """Synthesizer with a stepper, and a working copy of the shard."""

    def __init__(
        self, config: Config, site: SynthesizerSite, store: Store, admit: Callable[[], None]
    ) -> None:
        _check_size(config, site)
        self.site = site
        self._store, self._admit = store, admit
        self._module = site.build(config)
        flat = Flat(self._module)
        self._stepper = Stepper(flat, config.optimizer.synthesizer, config.run.batches)
        self._steps = 1 if isinstance(self._module, InputSynthesizer) else config.lesson_steps
        self._copy = WorkingCopy(f"{site.k}/{site.name}", flat, config.downpour.first_n_push, MASTER)
        self._loss = 0.0
        first = self._copy.initial()
        store.create(first.header, [(0, first.buffer.data)], admit)
        reading = store.read(first.header.shard)
        try:
            self._copy.begin(reading.header, reading.buffer)
            self._next_batch = reading.header.next_batch
        finally:
            reading.release()

    def predict(self, question: SynthesisMessage, inputs: list[Tensor], name: str) -> SynthesisMessage:
        """Predict delta_k from (h_k, y), or h_{k-1} from x."""
        module = self._module
        synthesize = module.predict if isinstance(module, InputSynthesizer) else module.gradient
        table, data = pack({name: synthesize(*inputs)})
        return SynthesisMessage(
            SynthesisKind.SYNTHETIC, self.site.name, question.batch, loss=self._loss, table=table, data=data
        )

    def learn(self, batch: int, lesson: list[Tensor]) -> None:
        """Step on true values, M on parts of them, and push when a push is due.

        Args:
            batch: b.
            lesson: of M: h_k (B, ...), y (B, ...), delta_k shaped as h_k; of I: x (B, ...), h_{k-1} (B, ...).
        """
        self._loss = float(teach(self._module.learn, self._stepper, batch, self._steps, *lesson))
        self._next_batch = max(self._next_batch, batch + 1)
        self._push(self._copy.due(self._stepper.steps, self._next_batch))

    def settle(self) -> None:
        """Push the steps since the last push."""
        self._push(self._copy.flush(self._stepper.steps, self._next_batch))

    def _push(self, push: Push | None) -> None:
        if push is not None:
            reply = self._store.apply(push.header, [(0, push.buffer.data)], self._admit)
            self._copy.answered(reply)


def _check_size(config: Config, site: SynthesizerSite) -> None:
    """Refuse an oversized synthesizer before memory is taken.

    Raises:
        TooLargeError: the state would be larger than `MOST_BYTES`.
    """
    # Far too many numbers would overflow on the way to the size.
    if max(math.prod(site.shape), math.prod(site.size)) > MOST_BYTES:
        raise TooLargeError(f"{site} has too many numbers; at most {MOST_BYTES:,} are possible")
    with torch.device("meta"):
        nbytes = table_of(site.build(config)).nbytes
    if nbytes > MOST_BYTES:
        raise TooLargeError(f"{site} would take {nbytes:,} bytes; at most {MOST_BYTES:,} may be taken")
