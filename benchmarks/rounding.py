"""What narrower tensors between layers cost in time, and what ways of int8 leave of a run's gradients.

`python -m benchmarks rounding` writes benchmarks/results/rounding.json. The gradients are those of a run on
the digits in the driver, with late true gradients; every way rounds the same ones, in the order in which they
were sent.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common.config import files
from common.data import datasets
from common.models import network
from common.shards.table import BOUNDARY_ITEMSIZES
from common.wire import precision
from common.wire.boundary import Down, Message, Up
from common.wire.payloads import decode_boundary, encode_boundary
from common.wire.signals import from_wire, to_wire
from deploy.simulation.driver import Driver
from deploy.simulation.machine import Machine

RESULT = Path(__file__).parent / "results" / "rounding.json"
BATCHES, LAST = 400, 100
RUN = ["network.options.widths=[128, 128]", f"run.batches={BATCHES}", "decoupling.unlock=delayed"]
SHAPE, ROUNDS = (256, 1024), 200

Way = Callable[[Tensor], Tensor]


def plain(delta: Tensor) -> Tensor:
    """As it is sent."""
    return precision.rounded(delta, "int8")


def one_scale(delta: Tensor) -> Tensor:
    """A scale for the tensor, not for each row."""
    code = delta.abs().max() / 127
    return (delta / code).round() * code


def at_random(delta: Tensor) -> Tensor:
    """Up or down at random, so that the mean is right."""
    code = delta.abs().amax(1, keepdim=True) / 127
    return (delta / code + torch.rand_like(delta) - 0.5).round() * code


def fed_back(remembered: Callable[[Tensor], Tensor]) -> Way:
    """What is `remembered` of one batch's error is added to the next one."""
    memory = torch.zeros(())

    def way(delta: Tensor) -> Tensor:
        nonlocal memory
        due = delta + memory
        sent = plain(due)
        memory = remembered(due - sent)
        return sent

    return way


def ways() -> dict[str, Way]:
    """By name; each remembers on its own."""
    return {
        "as sent: a scale a row, to the nearest": plain,
        "one scale a tensor": one_scale,
        "at random": at_random,
        "feedback, each feature's mean error": fed_back(lambda error: error.mean(0)),
        "feedback, each row's error": fed_back(lambda error: error),
    }


class Recorder(Driver):
    """Keeps every h and delta that is sent, by layer and batch, in their order."""

    def _send(self, machine: Machine, message: Message) -> None:
        match message:
            case Up():
                self.activations[message.layer - 1, message.batch] = message.h.clone()
            case Down():
                self.gradients[message.layer, message.batch] = message.delta.clone()
        super()._send(machine, message)

    def recorded(self) -> Recorder:
        """This, after its run."""
        self.activations: dict[tuple[int, int], Tensor] = {}
        self.gradients: dict[tuple[int, int], Tensor] = {}
        for _ in self.run():
            pass
        return self


def run() -> Recorder:
    """The digits, three layers."""
    config = files.load(None, RUN)
    dataset = datasets.load(config.data)
    blueprint = network.build(config, dataset.input_shape, dataset.classes)
    config = network.cut(config, blueprint, dataset.input_shape, dataset.classes)
    return Recorder(config, dataset, trains=True).recorded()


def left(way: Way, told: Recorder, layer: int) -> dict[str, float]:
    """Percent that a way is off by, over the last batches: a batch's delta, and the sum of h^T delta."""
    off, true, sent = [], torch.zeros(()), torch.zeros(())
    for (k, batch), delta in told.gradients.items():
        rounded = way(delta) if k == layer else delta
        if k == layer and batch >= BATCHES - LAST:
            h = told.activations[k, batch]
            off.append(float((rounded - delta).norm() / delta.norm()))
            true, sent = true + h.t() @ delta, sent + h.t() @ rounded
    total = float((sent - true).norm() / true.norm())
    return {"batch_percent": round(100 * statistics.fmean(off), 3), "sum_percent": round(100 * total, 3)}


def microseconds(wire: str) -> dict[str, float]:
    """Median time of a message's way to bytes and back."""
    message = Down(0, torch.randn(SHAPE))
    took: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        encoded = encode_boundary(to_wire(message, wire))
        there = time.perf_counter()
        from_wire(decode_boundary(encoded))
        took["encode"].append(there - began)
        took["decode"].append(time.perf_counter() - there)
    times = {name: round(1e6 * statistics.median(each), 1) for name, each in took.items()}
    return {"nbytes": len(encoded), **times}


def main() -> None:
    """Measure, print, write the result."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    told = run()
    result = {
        "torch": torch.__version__,
        "shape": SHAPE,
        "microseconds": {wire: microseconds(wire) for wire in BOUNDARY_ITEMSIZES},
        "gradients": {
            f"delta_{layer}": {name: left(way, told, layer) for name, way in ways().items()}
            for layer in (1, 2)
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
