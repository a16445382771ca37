"""Network of a finished run, from the files of the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from common.config.sections import Config
from common.config.tasks import CURRICULUM_METRICS
from common.data import datasets
from common.data.copying import Stage
from common.data.datasets import Dataset
from common.data.levels import MOST_LEVELS
from common.data.vocabularies import Vocabulary
from common.errors import ConfigError
from common.models import network
from common.models.threads import use_allowed_cores
from common.wire.messages import Evaluation
from deploy.evaluation.evaluator import Evaluator
from deploy.runs.directory import saved_config
from deploy.runs.model import SavedModel, load_model, read_evaluation


@dataclass(frozen=True)
class FinishedRun:
    """Configuration and state of a finished run; the evaluator does not have the state yet.

    Attributes:
        config: of the run.
        evaluator: measures the state.
        state: state dict of the plain network.
        batches: batches that the state has learned from.
        stage: place in the curriculum; None: examples do not become harder.
    """

    config: Config
    evaluator: Evaluator
    state: dict[str, Tensor]
    batches: int
    stage: Stage | None = None


def load_finished(
    path: Path, data: Path | None, code: Path | None, checkpoint: Path | None = None
) -> FinishedRun:
    """Load a run directory, with the run's data.

    Args:
        path: the run directory.
        checkpoint: model file that takes the place of the last model; a bare name is searched in `path`.
        data: folder that replaces `data.path`.
        code: folder of the user's files.

    Raises:
        ConfigError: the directory has no model, the model is damaged or not the run's, or the data is
            missing.
    """
    model, config = load_model(path, checkpoint), saved_config(path)
    evaluator = build_evaluator(config, datasets.of(config, path=data, code=code), code)
    _check_fit(model, evaluator.network.state_dict())
    known = read_evaluation(model.path)
    stage = _find_stage(model, known) if config.curriculum else None
    return FinishedRun(config, evaluator, model.state, known.batches if known else config.run.batches, stage)


def _find_stage(model: SavedModel, known: Evaluation | None) -> Stage:
    """Return the stage at which a model was saved.

    Raises:
        ConfigError: the model has no evaluation with a level.
    """
    try:
        longest, level = (int(known.metrics[name]) for name in CURRICULUM_METRICS) if known else (0, 0)
    except (KeyError, ValueError, OverflowError):
        level = 0
    if not 0 < level <= MOST_LEVELS:
        raise ConfigError(
            f"{model.path}: does not say at which level the network is; give the model file of a finished run"
        )
    return Stage(level, longest)


@dataclass(frozen=True)
class SpeakingRun:
    """Network of a finished language run, in evaluation mode.

    Attributes:
        network: maps (1, T) int64 to logits (1, T, V).
        context: largest T; None: the network carries a state, and takes any T.
        vocabulary: text of the V tokens.
    """

    network: nn.Module
    context: int | None
    vocabulary: Vocabulary


def load_speaking(path: Path, code: Path | None) -> SpeakingRun:
    """Load a run directory without the run's data: the model file has the vocabulary.

    Args:
        path: the run directory.
        code: folder of the user's files.

    Raises:
        ConfigError: the directory has no model of text, or the model is damaged or not the run's.
    """
    model, config = load_model(path), saved_config(path)
    vocabulary = model.read_vocabulary()
    if vocabulary is None:
        raise ConfigError(
            f'generate {path}: data.dataset = "{config.data.dataset}" of this run has no text; give a run '
            'that was trained with data.dataset = "text"'
        )
    use_allowed_cores()
    (context,) = model.read_forms()[0].only.shape
    plain = build_network(model, config, code)
    return SpeakingRun(plain, None if config.time.window else context, vocabulary)


def build_network(model: SavedModel, config: Config, code: Path | None) -> nn.Sequential:
    """Build the plain network of a finished run with the weights, in evaluation mode, without the run's data.

    Args:
        model: of the run.
        config: of the run.
        code: folder of the user's files.

    Raises:
        ConfigError: the model is not the run's, or lacks the form of its inputs.
    """
    inputs, targets = model.read_forms()
    plain = nn.Sequential(*network.build(config, inputs, targets, code).units).eval()
    _check_fit(model, plain.state_dict())
    plain.load_state_dict(model.state)
    return plain


def _check_fit(model: SavedModel, due: Mapping[str, Tensor]) -> None:
    """Check that a model has every tensor of a network's state dict, in the same shape.

    Raises:
        ConfigError: a tensor is missing, or has another shape.
    """
    for name, tensor in due.items():
        shape = tuple(model.state[name].shape) if name in model.state else None
        if shape != tuple(tensor.shape):
            misfit = "is missing" if shape is None else f"is {shape} instead of {tuple(tensor.shape)}"
            raise ConfigError(
                f"{model.path}: does not fit the run's config.toml: {name} {misfit}; copy both files again"
            )


def build_evaluator(config: Config, dataset: Dataset, code: Path | None) -> Evaluator:
    """Build the evaluator of a run."""
    use_allowed_cores()
    return Evaluator(config, dataset, network.build(config, dataset.inputs, dataset.targets, code))
