"""Time for narrower tensors between layers, and the error of several int8 encodings in a run's gradients.

`python -m benchmarks rounding` writes benchmarks/results/rounding.json. The gradients come from a run on the
digits in the driver, with late true gradients; every encoding rounds the same gradients in the order in which
they were sent.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from common import strict_json
from common.config import files
from common.data import datasets
from common.models import network
from common.shards.table import WIRE_ITEMSIZES
from common.signals import values
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

Rounding = Callable[[Tensor], Tensor]


def plain(delta: Tensor) -> Tensor:
    """Round as `cluster.wire = "int8"` does: a scale for every row, to the nearest."""
    return precision.round_trip(delta, "int8")


def one_scale(delta: Tensor) -> Tensor:
    """Round with a single scale for the whole tensor."""
    code = delta.abs().max() / 127
    return (delta / code).round() * code


def stochastic(delta: Tensor) -> Tensor:
    """Round up or down at random, with an exact expectation."""
    code = delta.abs().amax(1, keepdim=True) / 127
    return (delta / code + torch.rand_like(delta) - 0.5).round() * code


def with_feedback(remember: Callable[[Tensor], Tensor]) -> Rounding:
    """Add the part `remember` of every batch's rounding error to the next batch."""
    memory = torch.zeros(())

    def round_delta(delta: Tensor) -> Tensor:
        nonlocal memory
        corrected = delta + memory
        sent = plain(corrected)
        memory = remember(corrected - sent)
        return sent

    return round_delta


def ways() -> dict[str, Rounding]:
    """Return the encodings by name, with separate memories."""
    return {
        "as sent: a scale a row, to the nearest": plain,
        "one scale a tensor": one_scale,
        "at random": stochastic,
        "feedback, each feature's mean error": with_feedback(lambda error: error.mean(0)),
        "feedback, each row's error": with_feedback(lambda error: error),
    }


class Recorder(Driver):
    """Driver that records every h and delta sent, by layer and batch, in order."""

    def _send(self, machine: Machine, message: Message) -> None:
        match message:
            case Up():
                self.activations[message.layer - 1, message.batch] = values.plain(message.h).clone()
            case Down():
                self.gradients[message.layer, message.batch] = values.plain(message.delta).clone()
        super()._send(machine, message)

    def record(self) -> Recorder:
        """Run to the end, and return the recorder."""
        self.activations: dict[tuple[int, int], Tensor] = {}
        self.gradients: dict[tuple[int, int], Tensor] = {}
        for _ in self.run():
            pass
        return self


def run() -> Recorder:
    """Record a run of three layers on the digits."""
    config = files.load(None, RUN)
    dataset = datasets.of(config)
    blueprint = network.build(config, dataset.inputs, dataset.targets)
    config = network.cut(config, blueprint)
    return Recorder(config, dataset, trains=True).record()


def errors(way: Rounding, recorder: Recorder, layer: int) -> dict[str, float]:
    """Measure an encoding's error over the last batches, %: of a delta, and of the sum of h^T delta."""
    off, true, sent = [], torch.zeros(()), torch.zeros(())
    for (k, batch), delta in recorder.gradients.items():
        rounded = way(delta) if k == layer else delta
        if k == layer and batch >= BATCHES - LAST:
            h = recorder.activations[k, batch]
            off.append(float((rounded - delta).norm() / delta.norm()))
            true, sent = true + h.t() @ delta, sent + h.t() @ rounded
    total = float((sent - true).norm() / true.norm())
    return {"batch_percent": round(100 * statistics.fmean(off), 3), "sum_percent": round(100 * total, 3)}


def microseconds(wire: str) -> dict[str, float]:
    """Measure the median microseconds to encode and to decode a message."""
    message = Down(0, torch.randn(SHAPE))
    took: dict[str, list[float]] = {"encode": [], "decode": []}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        encoded = encode_boundary(to_wire(message, wire))
        encoded_at = time.perf_counter()
        from_wire(decode_boundary(encoded))
        took["encode"].append(encoded_at - began)
        took["decode"].append(time.perf_counter() - encoded_at)
    times = {name: round(1e6 * statistics.median(each), 1) for name, each in took.items()}
    return {"nbytes": len(encoded), **times}


def main() -> None:
    """Measure, print and write the results."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recorder = run()
    result = {
        "torch": torch.__version__,
        "shape": SHAPE,
        "microseconds": {wire: microseconds(wire) for wire in WIRE_ITEMSIZES},
        "gradients": {
            f"delta_{layer}": {name: errors(way, recorder, layer) for name, way in ways().items()}
            for layer in (1, 2)
        },
    }
    RESULT.write_text(strict_json.encode(result, indent=1) + "\n", encoding="utf-8")
    print(strict_json.encode(result, indent=1))
