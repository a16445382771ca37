"""An asynchronous pipeline of two stages with AsyncPP's rule (Ajanthan et al. 2025), written plainly."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.rivals import Plain, PreparedRun, Stage

# AsyncPP's optimizer: NAdam with these betas, decoupled weight decay, and decay of the momentum's schedule.
BETAS, WEIGHT_DECAY, MOMENTUM_DECAY = (0.99, 0.999), 0.01, 0.004
UPPER, LOWER = 1, 0


@dataclass(frozen=True)
class Sent:
    """Batch that the lower stage has sent up, and whose gradient has not been stepped on.

    Attributes:
        weights: copy of the weights of the forward, by name.
        h: output, (B, ...), with its graph.
        delta: memory for the gradient in h.
        work: the messages under way.
    """

    weights: dict[str, Tensor]
    h: Tensor
    delta: Tensor
    work: tuple[dist.Work, ...]


class AsynchronousPipeline(Stage):
    """A stage for each rank; no stage waits for a step of the other's.

    The lower stage sends h of up to `in_flight` batches before it needs the gradient of the first. A gradient
    is that of the weights of its forward, of which a copy is kept; the step is on the newest weights.
    Messages are expected before they are sent, so that a message crosses the link once. A restart from a
    checkpoint loses the batches under way.

    Args:
        prepared: data and network.
        in_flight: most batches without a gradient.
    """

    def __init__(self, prepared: PreparedRun, in_flight: int) -> None:
        super().__init__(prepared)
        self._in_flight = in_flight
        self.optimizer = _build_optimizer(self.own, prepared)
        self._shape = (prepared.config.run.batch_size, *prepared.shapes[self.cut - 1])
        self._sent: deque[Sent] = deque()
        self._coming: deque[tuple[Tensor, dist.Work]] = deque()
        self._answers: deque[tuple[Tensor, dist.Work]] = deque()

    def step(self, batch: int) -> None:
        """Train on batch b; the lower stage steps on the batch that is `in_flight` - 1 before."""
        if dist.get_rank() == LOWER:
            self._send(batch)
            if len(self._sent) == self._in_flight:
                self._learn(self._sent.popleft())
        else:
            self._answer(batch)

    def finish(self) -> None:
        """Step on the gradients that are still under way."""
        while self._sent:
            self._learn(self._sent.popleft())
        for _, work in self._answers:
            work.wait()

    def _send(self, batch: int) -> None:
        weights = {
            name: parameter.detach().clone().requires_grad_()
            for name, parameter in self.own.named_parameters()
        }
        h = functional_call(self.own, weights, (self._prepared.batches.inputs(batch),))
        delta = torch.empty(self._shape)
        work = (_receive(delta, UPPER, batch), _start(h.detach(), UPPER, batch))
        self._sent.append(Sent(weights, h, delta, work))

    def _learn(self, sent: Sent) -> None:
        for work in sent.work:
            work.wait()
        gradients = torch.autograd.grad(sent.h, list(sent.weights.values()), sent.delta)
        for parameter, gradient in zip(self.own.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self._update([self.own])

    def _answer(self, batch: int) -> None:
        """Step on a batch, and send the gradient in h down."""
        h, work = self._expect(batch)
        work.wait()
        self._prepared.loss(self.own(h.requires_grad_()), self._prepared.batches.labels(batch)).backward()  # type: ignore[no-untyped-call]
        assert h.grad is not None
        self._answers.append((h.grad, _start(h.grad, LOWER, batch)))
        while len(self._answers) > self._in_flight:
            self._answers.popleft()[1].wait()
        self._update([self.own])

    def _expect(self, batch: int) -> tuple[Tensor, dist.Work]:
        """Return the message of a batch, and expect those of the next batches too."""
        last = self._prepared.config.run.batches
        for coming in range(batch + len(self._coming), min(batch + self._in_flight, last)):
            h = torch.empty(self._shape)
            self._coming.append((h, _receive(h, LOWER, coming)))
        return self._coming.popleft()


class InTime(Plain):
    """Back-propagation in one process with AsyncPP's optimizer: what of AsyncPP's gain is the optimizer's."""

    def __init__(self, prepared: PreparedRun) -> None:
        super().__init__(prepared)
        self.optimizer = _build_optimizer(self.own, prepared)


def _build_optimizer(module: nn.Module, prepared: PreparedRun) -> torch.optim.Optimizer:
    return torch.optim.NAdam(
        module.parameters(), prepared.config.optimizer.learning_rate, BETAS, weight_decay=WEIGHT_DECAY,
        momentum_decay=MOMENTUM_DECAY, decoupled_weight_decay=True, foreach=True,
    )  # fmt: skip


def _receive(tensor: Tensor, rank: int, batch: int) -> dist.Work:
    work = dist.irecv(tensor, rank, tag=batch)
    assert work is not None
    return work


def _start(tensor: Tensor, rank: int, batch: int) -> dist.Work:
    work = dist.isend(tensor, rank, tag=batch)
    assert work is not None
    return work
