"""VFBN's M in closed form, against autograd's double backward and against the layer that M serves.

`python -m benchmarks vfbn` writes benchmarks/results/vfbn.json. All run on one thread of one process, by
turns, round by round; a ratio is taken within a round, and given as median and quartiles over the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import records
from benchmarks.spread import spread
from common import strict_json, tasks
from common.config.synthesizers import VfbnOptions
from common.config.task import TaskConfig
from common.data.targets import Targets
from common.synthesizers import VirtualForward
from common.synthesizers.virtual import CELLS

RESULT = Path(__file__).parent / "results" / "vfbn.json"
BATCH = 256
CLASSES = 10
TASK = tasks.build(TaskConfig(), Targets(CLASSES))
ROUNDS = 15

Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """A shape of h and width of v, with the `layer` that M serves, in -> out."""

    name: str
    shape: tuple[int, ...]
    hidden: int
    layer: nn.Module


def cases() -> list[Setting]:
    """List vectors of widths 256 and 1024 at several widths of v, and a feature map of 32 channels."""
    vectors = [
        Setting(f"vector {width}, hidden {hidden}", (width,), hidden, _dense(width))
        for width, hiddens in ((1024, (0, 32, 64, 128)), (256, (64, 128)))
        for hidden in hiddens
    ]
    convolution = nn.Sequential(nn.Conv2d(32, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU())
    maps = [
        Setting(f"map 32x16x16, hidden {hidden}", (32, 16, 16), hidden, convolution) for hidden in (0, 64)
    ]
    return [*vectors, *maps]


def _dense(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())


def plain_v(module: VirtualForward, h: Tensor) -> Tensor:
    """Compute v by autograd's operations: the peer of the closed form."""
    *hidden, last = module.maps
    h = F.adaptive_avg_pool2d(h, CELLS).flatten(1) if h.dim() == 4 else h
    for affine in hidden:
        h = F.relu(affine(h))
    logits: Tensor = last(h)
    return logits


def double_backward(module: VirtualForward, h: Tensor, y: Tensor, delta: Tensor) -> None:
    """Compute `gradient`, then `learn`, by autograd."""
    h = h.detach().requires_grad_()
    torch.autograd.grad(F.cross_entropy(plain_v(module, h), y, reduction="sum"), h)
    total = F.cross_entropy(plain_v(module, h), y, reduction="sum")
    (delta_hat,) = torch.autograd.grad(total, h, create_graph=True)
    learned = (delta_hat - delta).square().sum() + total
    (learned / len(h)).backward()  # type: ignore[no-untyped-call]


def works(case: Setting) -> dict[str, Work]:
    """Return the functions to time: two forms of M, with M's optimizer step, and the layer's whole step."""
    module = VirtualForward(VfbnOptions(hidden=case.hidden), case.shape, TASK)
    m_step = _optimizer_step(module)
    layer_step = _optimizer_step(case.layer)
    h, delta = torch.randn(2, BATCH, *case.shape)
    y = torch.randint(CLASSES, (BATCH,))

    def closed_form() -> None:
        module.gradient(h, y)
        module.learn(h, y, delta)
        m_step()

    def by_autograd() -> None:
        double_backward(module, h, y, delta)
        m_step()

    def layer() -> None:
        u = h.detach().requires_grad_()
        case.layer(u).backward(delta)
        layer_step()

    return {"closed": closed_form, "double_backward": by_autograd, "layer": layer}


def _optimizer_step(module: nn.Module) -> Work:
    optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def seconds(work: Work, repeat: int) -> float:
    """Measure the mean seconds of a call."""
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    return (time.perf_counter() - start) / repeat


def measure(case: Setting) -> dict[str, object]:
    """Measure the times in milliseconds, and the closed form's ratio to the rest."""
    work = works(case)
    repeat = {name: max(1, round(0.02 / seconds(each, 3))) for name, each in work.items()}
    rounds = [{name: seconds(each, repeat[name]) for name, each in work.items()} for _ in range(ROUNDS)]
    times = {name: spread([1e3 * each[name] for each in rounds]) for name in work}
    ratios = {
        f"closed/{other}": spread([each["closed"] / each[other] for each in rounds])
        for other in ("double_backward", "layer")
    }
    return {"milliseconds": times, "ratio": ratios}


def main() -> None:
    """Measure every case, print and write the results."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {case.name: measure(case) for case in cases()}
    records.write(RESULT, {"batch": BATCH, "torch": torch.__version__, "cases": results})
    print(strict_json.encode(results, indent=2))
