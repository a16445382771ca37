"""Language modelling: cross-entropy of the next token, the mean over the positions of an example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config.tasks import IGNORED, NoOptions
from common.data.targets import Targets
from common.tasks import softmax
from common.tasks.base import Expansion, Task

# Most classes of tokens for M and heads, and tokens with a class of their own.
CLASSES, OWN_CLASSES = 1024, 768


class Language(Task):
    """Outputs (B, T, V), targets (B, T) int64: the next token at each position, or `IGNORED`.

    An ignored position counts nowhere; an example without any other has the loss 0.
    """

    def __init__(self, targets: Targets) -> None:
        super().__init__(targets, (*targets.shape, targets.classes))

    def describe_output(self) -> str:
        """Return the length and the vocabulary, for messages."""
        return f"the data has {self.targets.shape[0]} positions an example and {self.outputs} tokens"

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of each example, in nats a token."""
        return (_cross_entropy(output, target) * _weights(output, target)).sum(1)

    def expand(self, output: Tensor, target: Tensor) -> Expansion:
        """Expand in closed form; each position weighs 1 / T."""
        p = torch.softmax(output, -1)
        mass = _weights(output, target).unsqueeze(-1)
        delta = (p * mass).scatter_add_(-1, target.clamp(min=0).unsqueeze(-1), -mass)
        return softmax.expansion(p, delta, lambda: self.total(output, target), mass)

    def tally(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return the nats and the number of the tokens that count."""
        return {
            "loss": float(_cross_entropy(output, target).sum()),
            "count": int((target != IGNORED).sum()),
        }

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return perplexity and bits a token, and bits a character if the data tells characters a token."""
        nats = sums["loss"] / sums["count"]
        bits = nats / math.log(2)
        # Beyond 709 nats the exponential is more than a float holds.
        values = {"perplexity": math.exp(nats) if nats < 709 else math.inf, "bits_per_token": bits}
        if self.targets.characters:
            values["bits_per_character"] = bits / self.targets.characters
        return values

    def for_synthesis(self) -> Language:
        """Return the task over a bounded number of classes, which rare tokens share."""
        return self if self.outputs <= CLASSES else SharedClasses(self.targets)

    @property
    def context_size(self) -> int:
        """Size of the vocabulary."""
        return self.targets.classes

    def context(self, target: Tensor, table: Tensor) -> Tensor:
        """Return the tokens' rows of a table (V, width), by position: (B, T, width); ignored ones are 0."""
        rows = F.embedding(target.clamp(min=0), table)
        return rows * (target != IGNORED).unsqueeze(-1)


class SharedClasses(Language):
    """Language modelling for M and heads: rare tokens share classes, and no vocabulary is too large.

    Tokens below `OWN_CLASSES` have a class of their own, and the others share the rest. Vocabularies are
    sorted by frequency, or nearly so, and most positions of a text have one of the first tokens.
    """

    def __init__(self, targets: Targets) -> None:
        super().__init__(replace(targets, classes=CLASSES))

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the losses of the tokens' classes."""
        return super().losses(output, _share(target))

    def expand(self, output: Tensor, target: Tensor) -> Expansion:
        """Expand the losses of the tokens' classes."""
        return super().expand(output, _share(target))

    def context(self, target: Tensor, table: Tensor) -> Tensor:
        """Return the rows of the tokens' classes."""
        return super().context(_share(target), table)


def _share(target: Tensor) -> Tensor:
    """Return the class of each token; a class is its own class, and `IGNORED` stays."""
    shared = OWN_CLASSES + (target - OWN_CLASSES) % (CLASSES - OWN_CLASSES)
    return torch.where(target < OWN_CLASSES, target, shared)


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy at each position, (B, T); 0 at ignored ones."""
    losses = F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view_as(target)


def _weights(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 / n at the n positions of an example that count, 0 at the others: (B, T)."""
    counts = (target != IGNORED).to(output.dtype)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def build(options: NoOptions, targets: Targets) -> Language:  # noqa: ARG001 - there are none
    """Build the task."""
    return Language(targets)
