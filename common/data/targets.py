"""Facts about the targets of a data set, from which the task of a run is built."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Targets:
    """Form of the targets.

    Attributes:
        classes: number of values of an integer target: classes, or tokens of a vocabulary; 0: floats.
        shape: shape of one example's target; () for one number.
        characters: characters of a token, on average over the test set; None: unknown.
    """

    classes: int
    shape: tuple[int, ...] = ()
    characters: float | None = None

    @property
    def labels(self) -> bool:
        """Whether a target is one integer, the class of an example."""
        return self.classes > 0 and self.shape == ()

    def describe(self) -> str:
        """Describe the targets, to end a sentence: "in 10 classes"."""
        if self.labels:
            return f"in {self.classes} classes"
        return f"with targets {self.shape} of {f'{self.classes} values' if self.classes else 'floats'}"
