"""Parts of a layer for the builder of an unlock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.config.sections import Config
from common.draws import chance
from common.optim.stepper import Stepper
from common.signals.forms import SignalForm
from common.synthesizers import Virtual
from common.tasks import Task
from slave.training.decoupling import PackedSynthesizer, Predicting
from slave.training.health import Health
from slave.training.layer import Layer
from slave.training.scores import Scores


@dataclass(frozen=True, eq=False)
class Parts:
    """Layer with makers of M, I and a head; a maker also begins the shard of its module.

    Attributes:
        config: of the run, its cuts known.
        layer: the layer.
        health: the layer's record of its own learning.
        task: of the run.
        above: form of h_k.
        output: form of the network's output, h_K.
        wants_gradient: whether the layer or a layer below has a use for a gradient at h_k.
        make_synthesizer: makes M, absent from the top layer.
        make_predictor: makes I, absent from the first layer.
        make_head: makes a head, and the stepper of the head.
        scores: of layer K, takes the loss of each batch; None: of other layers and runs.
    """

    config: Config
    layer: Layer
    health: Health
    task: Task
    above: SignalForm
    output: SignalForm
    wants_gradient: bool
    make_synthesizer: Callable[[], PackedSynthesizer]
    make_predictor: Callable[[], Predicting]
    make_head: Callable[[], tuple[Virtual, Stepper]]
    scores: Scores | None = None

    @property
    def top(self) -> bool:
        """Whether the layer is the last, K."""
        return self.layer.k == self.config.layers

    def steps_on(self, batch: int) -> bool:
        """Whether the layer steps on the synthetic gradient of a batch: a function of (seed, k, b)."""
        decoupling, seed = self.config.decoupling, self.config.run.seed
        return chance(seed, self.layer.k, batch) < decoupling.step_probability
