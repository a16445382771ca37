"""Captions of an analysis: reading of a plot, and result."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from deploy.analysis.gradients import Surface
from deploy.analysis.measures import Measured
from deploy.analysis.telemetry import COSINE

# Share of a dissimilarity within classes to that between them, under which classes are told apart.
APART = 0.5


def matrices(each: Measured) -> str:
    """Describe the matrices of a network."""
    if not each.by_class:
        return (
            "Each square compares test examples with each other by a unit's outputs, ordered by target: "
            "dark where the outputs of two examples go together, bright where they do not."
        )
    text = (
        f"Each square compares {each.examples} test examples with each other by a unit's outputs, ordered by "
        "class: dark where the outputs of two examples go together, bright where they do not. Dark blocks on "
        "the diagonal are classes that the unit tells apart. "
    )
    shares = [_inner_share(means) for means in each.by_class]
    for unit, share in zip(each.units, shares, strict=True):
        if share < APART:
            return text + (
                f"From unit {unit} on, examples of one class are less than half as dissimilar as examples of "
                f"two classes; at unit {each.units[-1]} the ratio is {shares[-1]:.2f}."
            )
    return text + (
        f"No unit tells the classes well apart: within a class examples are {min(shares):.2f} times as "
        "dissimilar as between two classes, at the best unit."
    )


def _inner_share(means: Sequence[Sequence[float | None]]) -> float:
    """Return the mean dissimilarity within classes over the mean between classes."""
    inner = [row[place] for place, row in enumerate(means)]
    outer = [value for place, row in enumerate(means) for other, value in enumerate(row) if other != place]
    within, between = (np.mean([v for v in part if v is not None] or [0.0]) for part in (inner, outer))
    return float(within / between) if between else 1.0


def distance(measured: Sequence[Measured]) -> str:
    """Describe the distances to the last hidden unit, with the steepest step of each network."""
    text = (
        "The difference between the dissimilarities of a unit and of the last hidden unit (root mean square "
        f"over pairs of examples{_of_one_class(measured)}): zero where a unit already represents examples as "
        "the last one does. Dotted lines show where one to three Ms, or heads, stand. "
    )
    return text + _list_found(map(_find_fall, measured), "a shape")


def _list_found(found: Iterable[str], lacked: str) -> str:
    """Join what was found of each network; an empty text stands for too few units."""
    each = list(found)
    told = [text for text in each if text]
    if not told:
        return f"There are too few units for {lacked}."
    rest = f"; the others have too few units for {lacked}" if len(told) < len(each) else ""
    return "; ".join(told) + rest + "."


def _of_one_class(measured: Sequence[Measured]) -> str:
    return " of one class" if all(each.by_class for each in measured) else ""


def _find_fall(each: Measured) -> str:
    assert each.distances is not None
    values = each.distances[each.last, : each.last + 1]
    if len(values) < 3:
        return ""
    # The last step is down to zero in any case.
    falls = values[:-2] - values[1:-1]
    place = int(falls.argmax())
    half = next(
        unit
        for unit, value in zip(each.units, values, strict=False)
        if value <= values[: each.last].max() / 2
    )
    return (
        f"{each.title} falls under half of its highest value at unit {half}, and most between units "
        f"{each.units[place]} and {each.units[place + 1]}"
    )


def between(measured: Sequence[Measured]) -> str:
    """Describe the distances between units."""
    return (
        "Rows and columns are units; dark squares are groups of units that represent examples alike "
        f"(over pairs of examples{_of_one_class(measured)}). A border between two dark squares is a place "
        "where the representation changes at once."
    )


def probes(measured: Sequence[Measured], part: int) -> str:
    """Describe the errors of probes on training examples (0) or test examples (1)."""
    counts = {(each.learned, each.examples)[part] for each in measured}
    number = " or ".join(f"{each:,}" for each in sorted(counts))
    what = (f"the {number} training examples it has learned from", f"{number} test examples")[part]
    text = (
        f"A linear classifier is fitted to each unit's outputs; its error on {what} says how much of the "
        "class is there to be read by a straight cut. "
    )
    lows = []
    for each in measured:
        errors = [both[part] for both in each.probes]
        place = int(np.argmin(errors))
        lowest = f"{errors[place]:.1f} %, at unit {each.units[place]}"
        lows.append(
            f"{each.title} has its lowest, {lowest}, and {errors[-1]:.1f} % at unit {each.units[-1]}"
            if place == 0
            else f"{each.title} goes from {errors[0]:.1f} % at unit {each.units[0]} to its lowest, {lowest}"
        )
    return text + "; ".join(lows) + "."


def norms(measured: Sequence[Measured]) -> str:
    """Describe the norms of weights, and their trend over the hidden units of equal size."""
    text = "The sum of the squared weights of each unit, on a logarithmic scale. "
    return text + _list_found(map(_find_trend, measured), "a trend")


def _find_trend(each: Measured) -> str:
    # First and last unit have other shapes.
    inner = [value for value in each.norms[1:-1] if value]
    if len(inner) < 4:
        return ""
    third = len(inner) // 3 or 1
    low, high = float(np.mean(inner[:third])), float(np.mean(inner[-third:]))
    trend = "rises" if high > 1.05 * low else "falls" if high < low / 1.05 else "stays level"
    return f"{each.title} {trend} towards the output, from {low:.3g} to {high:.3g} (means of thirds)"


def updates(measured: Sequence[Measured]) -> str:
    """Describe the change of weights, with the batches between the networks."""
    spans = sorted({_span(each) for each in measured})
    text = (
        "The norm of each unit's change between two kept networks, over the norm of its weights and the "
        "batches between them: about 0.001 is usual, much less is a unit that hardly learns, or a schedule "
        "that has come near a rate of zero. "
    )
    if spans == [1]:
        return text + "The networks are one batch apart."
    return text + (
        f"The networks are {', '.join(map(str, spans))} batches apart, so that steps in different directions "
        "cancel; run.keep = [B, B + 1] shows a single step."
    )


def _span(each: Measured) -> int:
    points = each.subject.run.points
    place = points.index(each.subject.point)
    return points[place].batch - points[place - 1].batch


def gradients(measured: Sequence[Measured], name: str) -> str:
    """Describe M against the true gradient."""
    if name == "cosine":
        text = (
            "The true gradient comes from back-propagation through all layers above, not from the "
            "neighbour's M; at 1 M points the same way, at 0 M knows nothing. "
        )
    else:
        text = "At 1 M's steps are as long as true ones, under 1 shorter: M predicts a part of the gradient. "
    found = []
    for each in measured:
        values = {k: known[name] for k, known in each.gradients.items()}
        low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        found.append(
            f"{each.title}: {values[high]:.2f} at layer {high}"
            + (f", {values[low]:.2f} at layer {low}" if low != high else "")
        )
    return text + "; ".join(found) + "."


def synthesis(layers: Mapping[int, Sequence[Mapping[str, float]]]) -> str:
    """Describe M over time."""
    last = {k: rows[-1][COSINE] for k, rows in layers.items() if COSINE in rows[-1]}
    text = (
        "Running means of the run itself (metrics.jsonl): M against the gradient that the layer above sent, "
        "which in layers below another M is a prediction, too. "
    )
    if not last:
        return text
    low, high = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    return text + (
        f"At the end the cosine is {last[high]:.2f} at layer {high}"
        + (f", the highest, and {last[low]:.2f} at layer {low}, the lowest." if low != high else ".")
    )


def surfaces(found: Sequence[Surface]) -> str:
    """Describe loss surfaces."""
    what = "" if found[0].label is None else f" for the target {found[0].label}"
    text = (
        f"Left the loss of the layers above{what}, right the loss whose gradient M gives, both on the plane "
        "in which the layer's outputs vary most; white dots are outputs of test examples. Where the shapes "
        "agree, steps on M's gradient go downhill. Each picture has a scale of its own. "
    )
    pairs = itertools.starmap("layer {}: {:.2f}".format, ((s.layer, s.correlation) for s in found))
    return text + f"Correlation of the two over the plane: {', '.join(pairs)}."
