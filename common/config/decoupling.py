"""Section [decoupling]: unlock and synthesizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.config import settings
from common.config.alignments import ALIGNMENTS, AlignmentRow
from common.config.late import BACKWARDS, CORRECTIONS
from common.config.settings import choice, key
from common.config.synthesizers import GRADIENTS, INPUTS, GradientOptions, InputOptions, VfbnOptions
from common.config.unlocks import UNLOCKS, Divide, UnlockRow
from common.errors import ConfigError

# More were no better (docs/results.md).
SUPERVISED_STEPS = 8
# A single example has no batch statistics, which a user's v may take.
LEAST_EXAMPLES = 2


def count_parts(steps: int, examples: int) -> int:
    """Return the number of parts of a batch for so many steps: fewer where one would be too small."""
    return max(1, min(steps, examples // LEAST_EXAMPLES))


@dataclass(frozen=True)
class DecouplingConfig:
    """The unlock of all layers, and the options of M and I."""

    unlock: str = choice(
        "update",
        UNLOCKS,
        'unset: update; of a language model in at most four layers delayed, with correction = "proximal", '
        "where no key is given that asks for M, for another unlock or for time.window",
    )
    gradient: str = choice("vfbn", GRADIENTS, "M, the gradient synthesizer")
    gradient_options: dict[str, Any] = key({}, "M's own options: hidden, ...; with local, the head's")
    input: str = choice("mlp", INPUTS, "I, the input synthesizer")
    input_options: dict[str, Any] = key({}, "I's own options: hidden, ...")
    in_flight: int | None = key(
        None,
        "batches a layer may have out without their delta; unset: 2(K - k) + 1; of full: slots of a mailbox",
        minimum=1,
    )
    shrink: float = key(1.0, "of delayed: factor of a gradient at each boundary (beta)", minimum=0, maximum=1)
    lead: int | None = key(
        None,
        "of full: most batches that a layer trains without a message from a neighbour, then it waits for "
        "one; unset: 32, with a curriculum 128",
        minimum=1,
    )
    backward: str = choice("recompute", BACKWARDS, "of delayed, once a gradient comes")
    correction: str = choice("none", CORRECTIONS, "of delayed, of gradients that come late")
    alignment: str = choice("feedback", ALIGNMENTS, "of alignment, the way down")
    step_probability: float = key(
        1.0, "of M: the part of the batches whose synthetic gradient is stepped on", above=0, maximum=1
    )
    synthesizer_every: int = key(1, "n: M learns on every n-th true gradient", minimum=1)
    synthesizer_steps: int | None = key(
        None,
        "steps of M or a head on a batch that teaches it, each on a part of two examples or more; unset: 8 "
        "where the built-in v learns the task's own loss, else 1",
        minimum=1,
    )
    mix_true: bool = key(
        False,
        "of update: step on the true gradient where it arrives before the next batch, on M's elsewhere",
    )
    fallback_cosine: float | None = key(
        None,
        "of update: a layer whose M's cosine stays under it waits for true gradients; unset: never",
        minimum=-1,
        maximum=0.9,
    )

    def __post_init__(self) -> None:
        self.synthesizer_options()
        if self.propagates and self.row.slots is not None:
            raise ConfigError(
                f'decoupling.gradient: "{self.gradient}" waits for the true gradient, and with '
                f'decoupling.unlock = "{self.unlock}" a layer waits for none; choose decoupling.unlock = '
                '"update", or decoupling.gradient = "cdni"'
            )
        self.predictor_options()
        if CORRECTIONS[self.correction].recomputes and not BACKWARDS[self.backward].recomputes:
            again = " or ".join(f'"{row.name}"' for row in BACKWARDS.values() if row.recomputes)
            raise ConfigError(
                f'decoupling.correction: "{self.correction}" needs h at the present weights; choose '
                f"decoupling.backward = {again}"
            )

    @property
    def row(self) -> UnlockRow:
        """Row of the unlock."""
        return UNLOCKS[self.unlock]

    @property
    def propagates(self) -> bool:
        """Whether layers step on the gradient of M's loss, too, once the true gradient comes."""
        return self.row.synthesizes and GRADIENTS[self.gradient].propagates

    @property
    def aligned(self) -> AlignmentRow | None:
        """The fixed way of gradients down; None with an unlock whose ways are others."""
        return ALIGNMENTS[self.alignment] if self.row.aligns else None

    @property
    def broadcasts(self) -> bool:
        """Whether layers get the gradient in the network's output, dL/dp, in the place of delta_k."""
        return self.aligned is not None and self.aligned.broadcasts

    @property
    def feeds_back(self) -> bool:
        """Whether maps carry gradients down by fixed random weights in the place of their own."""
        return self.aligned is not None and not self.aligned.broadcasts

    @property
    def slots(self) -> int | None:
        """Slots N of a mailbox that may lose messages (slot b mod N keeps the newest), else None."""
        return self.row.slots and (self.in_flight or self.row.slots)

    @property
    def shares(self) -> Divide:
        """Division of a step's multiply-adds among the moments of computing."""
        if self.propagates and (divide := GRADIENTS[self.gradient].shares):
            return divide
        return self.row.shares or BACKWARDS[self.backward].shares

    def synthesizer_options(self) -> GradientOptions:
        """Return the checked options of M, or of the head."""
        return settings.read(
            GRADIENTS[self.gradient].options, self.gradient_options, "decoupling.gradient_options."
        )

    @property
    def wanted_steps(self) -> int:
        """Steps of M, or of a head, on a batch that teaches it, if its optimizer steps on every batch.

        More steps make the regression of `cdni` worse, `supervised = 0` is the paper's M, and a user's v may
        have batch normalization, for which small parts are another network.
        """
        options = self.synthesizer_options()
        if self.synthesizer_steps is not None:
            return self.synthesizer_steps
        if not isinstance(options, VfbnOptions) or options.v is not None or not options.trained:
            return 1
        return SUPERVISED_STEPS if self.row.supervises or options.supervised else 1

    @property
    def own_v(self) -> str | None:
        """Function of a user that builds v of M or of the head; None: v is built in, or there is none."""
        options = self.synthesizer_options()
        return options.v if isinstance(options, VfbnOptions) else None

    def predictor_options(self) -> InputOptions:
        """Return the checked options of I."""
        return settings.read(INPUTS[self.input].options, self.input_options, "decoupling.input_options.")

    def window(self, layer: int, layers: int) -> int:
        """Return the number of batches that layer k of K may have out without delta."""
        return self.row.window or self.in_flight or 2 * (layers - layer) + 1
