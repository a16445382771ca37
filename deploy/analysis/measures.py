"""Measures of a network, and reasons for omissions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.analysis import gradients, representations, weights
from deploy.analysis.gradients import Surface
from deploy.analysis.subjects import Subject
from deploy.runs.model import MODEL


@dataclass(eq=False)
class Measured:
    """Measures of a network.

    Attributes:
        subject: the network.
        title: name of the network among the others.
        place: of the network among the others, from 0; gives it a colour.
        examples: number of test examples.
        learned: number of training examples that probes are fitted to.
        units: numbers of the units that are compared, from 1.
        matrices: dissimilarity of examples, for each of `units`.
        distances: between `units`; None: no unit is compared.
        by_class: mean dissimilarity of the examples of every two classes, for each of `units`.
        probes: errors in % on training and test examples, for each of `units`.
        norms: squared norm of the weights, for every unit of the network.
        updates: change of the weights a batch, for every unit; None: there is no earlier network.
        gradients: M's cosine with the true gradient and the ratio of norms, by layer.
        surfaces: losses on a plane, of some layers with M.
        omitted: reasons for measures that are left out.
    """

    subject: Subject
    title: str
    place: int
    examples: int = 0
    learned: int = 0
    units: list[int] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)
    distances: np.ndarray | None = None
    by_class: list[list[list[float | None]]] = field(default_factory=list)
    probes: list[tuple[float, float]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    updates: list[float | None] | None = None
    gradients: dict[int, dict[str, float]] = field(default_factory=dict)
    surfaces: list[Surface] = field(default_factory=list)
    omitted: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        """Place in `units` of the last unit below the network's output, the origin of distances."""
        below = [place for place, unit in enumerate(self.units) if unit < len(self.subject.units)]
        return below[-1] if below else len(self.units) - 1

    @property
    def boundaries(self) -> list[int]:
        """Units after which a layer with an M, or a head, ends."""
        return [self.subject.run.cuts[k - 1] for k in self.subject.synthesizers]

    def to_json(self) -> dict[str, Any]:
        """Return the network's part of analysis.json."""
        known = self.subject.evaluation
        return {
            "run": self.subject.run.name,
            "batch": self.subject.point.batch,
            "file": self.subject.point.model,
            "metrics": known.metrics if known else None,
            "units": self.units,
            "distance_to_last": None if self.distances is None else self.distances[self.last].tolist(),
            "distances": None if self.distances is None else self.distances.tolist(),
            "dissimilarity_by_class": self.by_class or None,
            "probe_error_percent": self.probes
            and {"train": [train for train, _ in self.probes], "test": [test for _, test in self.probes]},
            "squared_weight_norm": self.norms,
            "update_to_weight": self.updates,
            "gradients": {str(k): each for k, each in self.gradients.items()},
            "surfaces": {str(surface.layer): _surface_to_json(surface) for surface in self.surfaces},
        }


def _surface_to_json(surface: Surface) -> dict[str, Any]:
    arrays = {name: getattr(surface, name).tolist() for name in ("first", "second", "true", "implied")}
    return {"label": surface.label, "correlation": surface.correlation, **arrays}


def measure(subject: Subject, title: str, place: int, earlier: Subject | None, *, surfaces: bool) -> Measured:
    """Measure a network.

    Args:
        subject: the network.
        title: name of the network among the others.
        place: of the network among the others, from 0.
        earlier: an earlier network of the run, for the change of weights.
        surfaces: whether to compute loss surfaces.
    """
    found = Measured(subject, title, place, norms=weights.squared_norms(subject))
    if earlier is None:
        found.omitted.append(
            "update-to-weight ratios: need two networks of a run; train with run.keep = [B, B + 1]"
        )
    else:
        found.updates = weights.updates(earlier, subject)
    if subject.streams:
        found.omitted.append(
            "dissimilarity, probes, M against the true gradient, loss surfaces: are of single examples, and "
            "with time.window units carry a state along streams"
        )
        return found
    sample = representations.take_test(subject.run, representations.EXAMPLES)
    found.examples = len(sample.y)
    outputs = list(representations.represent(subject, sample.x))
    _represent(found, outputs, sample)
    _compare(found, outputs, sample, surfaces=surfaces)
    return found


def _represent(found: Measured, outputs: Sequence[Any], sample: representations.Sample) -> None:
    subject = found.subject
    known = list(representations.present(outputs))
    classes = sample.y.numpy() if subject.by_class else None
    pairs = representations.find_pairs(len(sample.y), classes)
    if not known or not pairs.any():
        reason = (
            f"the test set has no two examples{' of one class' if subject.by_class else ''}"
            if known
            else "no unit gives two numbers or more"
        )
        found.omitted.append(f"dissimilarity, probes: {reason}")
        return
    found.units = [unit for unit, _ in known]
    found.matrices = [representations.dissimilarity(h) for _, h in known]
    found.distances = representations.distances(found.matrices, pairs)
    if classes is None:
        found.omitted.append(
            f'probes, dissimilarity by class: task.kind = "{subject.run.config.task.kind}" has no classes of '
            "examples; distances between units are over all pairs of examples"
        )
        return
    found.by_class = [representations.mean_by_class(matrix, classes) for matrix in found.matrices]
    train = representations.take_training(subject.run, representations.PROBED)
    found.learned = len(train.y)
    of_test = dict(known)
    for unit, own in representations.present(representations.represent(subject, train.x)):
        number = subject.task.targets.classes
        found.probes.append(representations.probe(own, train.y, of_test[unit], sample.y, number))


def _compare(
    found: Measured, outputs: Sequence[Any], sample: representations.Sample, *, surfaces: bool
) -> None:
    subject = found.subject
    if not subject.synthesizers:
        found.omitted.append(_explain_no_synthesizer(subject))
        return
    found.gradients = gradients.compare_gradients(subject)
    if not surfaces:
        return
    if sample.y.ndim > 2 or len(subject.task.output_shape) > 1:
        found.omitted.append("loss surfaces: a target has several positions, and no single loss")
        return
    forms = subject.run.blueprint.forms
    for k in gradients.choose_layers(list(subject.synthesizers)):
        unit = subject.run.cuts[k - 1]
        if not forms[unit - 1].is_plain or not gradients.span_plane(outputs[unit - 1]):
            found.omitted.append(
                f"loss surface of layer {k}: its output is not one tensor that varies in two directions"
            )
            continue
        found.surfaces.append(gradients.measure_surface(subject, k, outputs[unit - 1], sample))


def _explain_no_synthesizer(subject: Subject) -> str:
    config, what = subject.run.config, "M against the true gradient, loss surfaces"
    row = config.decoupling.row
    if not (row.synthesizes or row.supervises):
        return f'{what}: decoupling.unlock = "{row.name}" has no M'
    if config.layers == 1:
        return f"{what}: a single layer has no M"
    if subject.point.model == MODEL:
        return f"{what}: {MODEL} has no M beside it; train with run.keep = [{config.run.batches}]"
    return f"{what}: {subject.point.model} has no M beside it"
