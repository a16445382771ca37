"""Representations by unit: dissimilarity of examples, distance between units, and linear probes.

Kriegeskorte et al. (2008) introduced the dissimilarity matrix; Czarnecki et al. (2017) compare networks with
synthetic gradients by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data import batches
from common.signals.packing import Packing
from common.signals.values import Signal, count, map_tensors, offer
from deploy.analysis.subjects import Run, Subject

EXAMPLES, PROBED = 400, 2000
# Most numbers of an example that a probe sees; more are mapped to as many by a fixed random matrix.
MOST_FEATURES = 1024
PROBE_STEPS, PROBE_DECAY = 100, 1e-4


class Sample(NamedTuple):
    """Examples of a run: x of N examples, and y (N, ...)."""

    x: Signal
    y: Tensor


def take_test(run: Run, size: int) -> Sample:
    """Take at most `size` test examples, evenly spaced, ordered by class or a target's first number."""
    places = np.unique(np.linspace(0, len(run.dataset.test) - 1, size).astype(int))
    parts: list[Sample] = []
    start = 0
    for x, y in batches.test_batches(run.dataset):
        own = places[(places >= start) & (places < start + len(y))] - start
        if len(own):
            parts.append(_pick(Sample(x, y), own))
        start += len(y)
    joined = _join(parts)
    keys = joined.y.reshape(len(joined.y), -1)[:, 0]
    return _pick(joined, keys.argsort(stable=True).numpy())


def take_training(run: Run, size: int) -> Sample:
    """Take at least `size` training examples, from the run's first batches, at most an epoch."""
    source = batches.Batches.of(run.config, run.dataset)
    needed = min(-(-size // source.size), source.batches_per_epoch)
    return _join([Sample(source.inputs(b), source.labels(b)) for b in range(needed)])


def _pick(sample: Sample, rows: np.ndarray) -> Sample:
    index = torch.from_numpy(rows)
    return Sample(map_tensors(lambda tensor: tensor[index], sample.x), sample.y[index])


def _join(parts: Sequence[Sample]) -> Sample:
    ys = [part.y for part in parts]
    first = parts[0].x
    if isinstance(first, Tensor):
        return Sample(torch.cat([part.x for part in parts if isinstance(part.x, Tensor)]), torch.cat(ys))
    each = [part.x for part in parts if isinstance(part.x, dict)]
    return Sample({name: torch.cat([part[name] for part in each]) for name in first}, torch.cat(ys))


@torch.no_grad()
def represent(subject: Subject, x: Signal, size: int = 200) -> Iterator[Tensor | None]:
    """Yield every unit's output for N examples, (N, D); None of a unit without floats.

    The outputs of one unit are held at a time: those of all units would fill the memory of a machine.
    """
    parts = [map_tensors(itemgetter(slice(at, at + size)), x) for at in range(0, count(x), size)]
    for unit, form in zip(subject.units, subject.run.blueprint.forms, strict=True):
        parts = [unit(offer(h)) for h in parts]
        packing = Packing(form) if form.floats.tensors else None
        yield None if packing is None else torch.cat([packing.pack(h).flatten(1) for h in parts])


def dissimilarity(h: Tensor) -> np.ndarray:
    """Return 1 - the correlation of every two examples' numbers, (N, N), from h (N, D).

    An example whose numbers are all equal correlates with no other.
    """
    rows = h.double().numpy()
    rows = rows - rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-12)
    matrix = 1 - rows @ rows.T
    np.fill_diagonal(matrix, 0.0)
    return np.asarray(matrix.clip(0, 2))


def find_pairs(count: int, classes: np.ndarray | None) -> np.ndarray:
    """Find the pairs of N examples over which units are compared, (N, N): each once.

    Args:
        count: N.
        classes: class of each example, (N,): pairs of one class count, as in the paper; None: all pairs do.
    """
    pairs = np.triu(np.ones((count, count), bool), 1)
    return pairs if classes is None else pairs & (classes[:, None] == classes[None, :])


def distances(matrices: Sequence[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Return the distance of every two units, (U, U): the root mean square difference of dissimilarities.

    Args:
        matrices: dissimilarity of N examples by unit.
        pairs: one at least, as of `find_pairs`.
    """
    rows = np.stack([matrix[pairs] for matrix in matrices])
    return np.asarray([np.sqrt(np.mean((rows - row) ** 2, axis=1)) for row in rows])


def mean_by_class(matrix: np.ndarray, classes: np.ndarray) -> list[list[float | None]]:
    """Return the mean dissimilarity of the examples of every two classes; None: a single example."""
    known = np.unique(classes)
    means: list[list[float | None]] = []
    for one in known:
        row: list[float | None] = []
        for other in known:
            block = matrix[np.ix_(classes == one, classes == other)]
            pairs = block.size - (len(block) if one == other else 0)
            row.append(float(block.sum() / pairs) if pairs else None)
        means.append(row)
    return means


def probe(train: Tensor, train_y: Tensor, test: Tensor, test_y: Tensor, classes: int) -> tuple[float, float]:
    """Fit a linear classifier to a unit's outputs; return the errors in % on training and test examples.

    Args:
        train: outputs (N, D).
        train_y: classes (N,).
        test: outputs (M, D).
        test_y: classes (M,).
        classes: number of classes.
    """
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    train, test = _reduce((train - mean) / std), _reduce((test - mean) / std)
    linear = nn.Linear(train.shape[1], classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    solver = torch.optim.LBFGS(
        linear.parameters(), max_iter=PROBE_STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(linear(train), train_y) + PROBE_DECAY * linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        wrong = [(linear(h).argmax(1) != y).double().mean() for h, y in ((train, train_y), (test, test_y))]
    return 100 * float(wrong[0]), 100 * float(wrong[1])


def _reduce(h: Tensor) -> Tensor:
    if h.shape[1] <= MOST_FEATURES:
        return h
    draws = torch.Generator().manual_seed(0)
    table = torch.randn(h.shape[1], MOST_FEATURES, generator=draws).div_(MOST_FEATURES**0.5)
    return h @ table


def present(values: Iterable[Tensor | None]) -> Iterator[tuple[int, Tensor]]:
    """Yield the outputs, (B, F), of at least two numbers, with the units' numbers from 1."""
    return ((u, h) for u, h in enumerate(values, 1) if h is not None and h.shape[1] > 1)
