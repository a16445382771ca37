"""M against the true gradient, and the loss surface implied by M against the true surface."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.data import batches
from common.draws import mix, seeded_torch
from common.models.own_losses import has_losses
from common.signals.packing import Packing
from common.signals.values import Signal, map_floats, map_tensors, offer, plain
from common.synthesizers import GradientSynthesizer
from deploy.analysis.representations import Sample
from deploy.analysis.subjects import Subject

# Training batches on which M is compared.
BATCHES = 4
# Points of a side of the grid, and of a line of integration.
GRID, LINE = 31, 17
# Layers of a run whose surfaces are computed.
MOST_SURFACES = 3


def compare_gradients(subject: Subject) -> dict[int, dict[str, float]]:
    """Compare M's with the true gradient, by layer: mean cosine and ratio of norms over training batches.

    The true gradient comes from back-propagation through all layers above, in training mode: of the task's
    loss, and of the losses that units above have of their own.
    """
    config, run = subject.run.config, subject.run
    source = batches.Batches.of(config, run.dataset)
    found = []
    for batch in range(min(BATCHES, source.batches_per_epoch)):
        # Masks of dropout are the same in every analysis.
        with seeded_torch(mix(config.run.seed, batch), torch.device("cpu")):
            found.append(_compare(subject, source.inputs(batch), source.labels(batch)))
    return {
        k: {name: float(np.mean([each[k][name] for each in found])) for name in ("cosine", "norm_ratio")}
        for k in subject.synthesizers
    }


def _compare(subject: Subject, x: Signal, y: Tensor) -> dict[int, dict[str, float]]:
    # A copy, since a forward in training mode moves running statistics.
    units = [copy.deepcopy(unit).train() for unit in subject.units]
    layers = {subject.run.cuts[k - 1]: k for k in subject.synthesizers}
    at: dict[int, Signal] = {}
    own: list[Tensor] = []
    h = x
    for number, unit in enumerate(units, 1):
        h = unit(offer(h))
        if has_losses(unit):
            own.append(unit.losses(h, y).sum())
        if number in layers:
            # Tensors of this boundary alone: the loss of the unit below it, and a skip connection's use below
            # another boundary, are no part of delta.
            h = at[layers[number]] = map_floats(_retain, h)
    torch.autograd.backward([subject.task.total(plain(h), y), *(each for each in own if each.requires_grad)])
    found = {}
    for k, module in subject.synthesizers.items():
        packing = Packing(subject.run.blueprint.forms[subject.run.cuts[k - 1] - 1])
        delta = packing.pack(map_floats(_gradient, at[k]))
        synthetic = module.gradient(packing.pack(map_tensors(Tensor.detach, at[k])), y)
        found[k] = _cosine(synthetic.flatten(), delta.flatten())
    return found


def _retain(tensor: Tensor) -> Tensor:
    # The graph begins here where the layers below have no weights.
    own = tensor.clone() if tensor.requires_grad else tensor.detach().clone().requires_grad_()
    own.retain_grad()
    return own


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _cosine(synthetic: Tensor, delta: Tensor) -> dict[str, float]:
    own, true = float(synthetic.norm()), float(delta.norm())
    cosine = float(synthetic @ delta) / (own * true) if own and true else 0.0
    return {"cosine": cosine, "norm_ratio": own / true if true else 0.0}


@dataclass(frozen=True, eq=False)
class Surface:
    """Losses on a plane through the outputs of a layer.

    Attributes:
        layer: k.
        label: class of the target; None: the target is of another kind.
        first: coordinates (G,) along the direction in which outputs vary most.
        second: coordinates (G,) along the next.
        true: loss of the layers above, (G, G); rows go with `second`.
        implied: loss whose gradient is M's, up to a constant, likewise; its mean is that of `true`.
        examples: coordinates (N, 2) of the outputs of examples.
    """

    layer: int
    label: int | None
    first: np.ndarray
    second: np.ndarray
    true: np.ndarray
    implied: np.ndarray
    examples: np.ndarray

    @property
    def correlation(self) -> float:
        """Correlation of both losses over the grid; 0 for a flat loss."""
        true, implied = self.true - self.true.mean(), self.implied - self.implied.mean()
        norm = float(np.linalg.norm(true) * np.linalg.norm(implied))
        return float((true * implied).sum()) / norm if norm else 0.0


def choose_layers(layers: Sequence[int]) -> list[int]:
    """Choose layers for surfaces: the first, the middle and the last with M."""
    if len(layers) <= MOST_SURFACES:
        return list(layers)
    return [layers[0], layers[len(layers) // 2], layers[-1]]


def span_plane(outputs: Tensor) -> bool:
    """Whether outputs (N, D) vary in two directions at least."""
    rows = outputs.double()
    return bool(rows.isfinite().all()) and int(torch.linalg.matrix_rank(rows - rows.mean(0))) > 1


@torch.no_grad()
def measure_surface(subject: Subject, k: int, outputs: Tensor, sample: Sample) -> Surface:
    """Measure the loss on a plane at layer k, and the loss implied by M.

    The plane goes through the mean of the outputs, along their first two principal directions. M's loss is
    the integral of M's gradient along the line from the mean: for a linear M, the quadratic form of
    Czarnecki et al. (2017); for VFBN, the loss of the virtual network.

    Args:
        subject: the network.
        k: layer with an M.
        outputs: h_k of the examples, (N, D), for which `span_plane` holds.
        sample: the examples.
    """
    centre, directions = _find_plane(outputs)
    places = (outputs.double() - centre) @ directions
    first, second = (torch.linspace(float(p.min()), float(p.max()), GRID).double() for p in places.T)
    offsets = torch.cartesian_prod(second, first).flip(1) @ directions.T
    target, label = _choose_target(subject, sample)
    form = subject.run.blueprint.forms[subject.run.cuts[k - 1] - 1]
    packing = Packing(form)
    above = subject.units[subject.run.cuts[k - 1] :]
    y = target.expand(len(offsets), *target.shape[1:])

    def loss(h: Tensor) -> Tensor:
        return _losses(subject, above, packing.unpack(h.float().view(-1, *packing.shape)), y)

    module, shape = subject.synthesizers[k], packing.shape
    true = loss(centre + offsets).double().view(GRID, GRID).numpy()
    implied = _integrate(_gradient_along(module, shape, y), centre, offsets).view(GRID, GRID).numpy()
    implied += true.mean() - implied.mean()
    of_class = sample.y == label if label is not None else torch.ones(len(places), dtype=torch.bool)
    return Surface(k, label, first.numpy(), second.numpy(), true, implied, places[of_class].numpy())


def _find_plane(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of h (N, D), (D,), and the first two principal directions, (D, 2)."""
    rows = h.double()
    centre = rows.mean(0)
    _, _, directions = torch.linalg.svd(rows - centre, full_matrices=False)
    chosen = directions[:2].T
    # A decomposition leaves the signs open.
    signs = torch.sign(chosen[chosen.abs().argmax(0), torch.arange(2)])
    return centre, chosen * signs


def _choose_target(subject: Subject, sample: Sample) -> tuple[Tensor, int | None]:
    """Return the commonest class as a target (1, ...) with its number, or the middle example's target."""
    if not subject.by_class:
        return sample.y[len(sample.y) // 2 : len(sample.y) // 2 + 1], None
    label = int(torch.bincount(sample.y).argmax())
    return torch.tensor([label]), label


def _losses(subject: Subject, above: Sequence[nn.Module], h: Signal, y: Tensor) -> Tensor:
    """Return the loss of each example, (N,), with that of the units above h that have one of their own."""
    own = torch.zeros(len(y))
    for unit in above:
        h = unit(offer(h))
        if has_losses(unit):
            own += unit.losses(h, y)
    return subject.task.losses(plain(h), y) + own


def _gradient_along(
    module: GradientSynthesizer, shape: tuple[int, ...], y: Tensor
) -> Callable[[Tensor], Tensor]:
    return lambda h: module.gradient(h.float().view(-1, *shape), y).flatten(1).double()


def _integrate(gradient: Callable[[Tensor], Tensor], centre: Tensor, offsets: Tensor) -> Tensor:
    """Integrate a gradient from the centre (D,) to every centre + offset, (N, D): trapezoids on a line."""
    total = torch.zeros(len(offsets), dtype=torch.float64)
    for part, weight in zip(torch.linspace(0, 1, LINE), [0.5, *[1.0] * (LINE - 2), 0.5], strict=True):
        total += weight * (gradient(centre + float(part) * offsets) * offsets).sum(1)
    return total / (LINE - 1)
