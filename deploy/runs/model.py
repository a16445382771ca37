"""model.safetensors: the plain network's weights, with a checksum."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import strict_json
from common.config.sections import Config
from common.data.datasets import Dataset
from common.data.statistics import Scaling
from common.data.targets import Targets
from common.data.vocabularies import Vocabulary, restore
from common.errors import ConfigError
from common.signals.forms import PLAIN, SignalForm, TensorForm
from common.wire.messages import Evaluation
from deploy.runs.files import read_file

if TYPE_CHECKING:
    from torch import Tensor

MODEL, BEST = "model.safetensors", "best.safetensors"
CHECKSUM, INPUTS, TARGETS, VOCABULARY = "crc32", "inputs", "targets", "vocabulary"
EVALUATION = "evaluation"


def encode_model(
    state: Mapping[str, Tensor], config: Config, data: Dataset, evaluation: Evaluation | None = None
) -> bytes:
    """Encode a plain state dict as safetensors.

    Configuration, form of inputs and targets, vocabulary, evaluation and checksum are metadata.
    """
    metadata = {
        "config": config.to_toml(),
        INPUTS: strict_json.encode(_describe_inputs(data)),
        TARGETS: strict_json.encode({"shape": data.targets.shape, "classes": data.classes}),
    }
    if data.vocabulary is not None:
        metadata[VOCABULARY] = strict_json.encode(data.vocabulary.dump())
    if evaluation is not None:
        metadata[EVALUATION] = strict_json.encode(dataclasses.asdict(evaluation))
    return encode_tensors(state, metadata)


def encode_tensors(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Encode tensors as safetensors, with a checksum beside the metadata."""
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in state.items()}
    return save(state, {**metadata, "format": "pt", CHECKSUM: _checksum(state)})


def _describe_inputs(data: Dataset) -> dict[str, Any]:
    """Describe plain inputs, or each tensor of named inputs by name."""
    described: dict[str, dict[str, Any]] = {}
    for name, form in data.inputs.tensors.items():
        scaling = data.scalings.get(name, Scaling())
        described[name] = {
            "shape": form.shape,
            "dtype": form.dtype,
            "scale": scaling.scale,
            "mean": scaling.mean,
            "std": scaling.std,
        }
    return described[PLAIN] if data.inputs.is_plain else described


@dataclass(frozen=True, eq=False)
class SavedModel:
    """Verified model file of a run.

    Attributes:
        path: of the file.
        content: bytes of the file.
        state: state dict of the plain network.
    """

    path: Path
    content: bytes
    state: dict[str, Tensor]

    def read_forms(self) -> tuple[SignalForm, Targets]:
        """Read the form of x and the facts about the targets, from which the network is built.

        Raises:
            ConfigError: the metadata lack a form, or were changed.
        """
        try:
            inputs, targets = (json.loads(_metadata(self.content)[name]) for name in (INPUTS, TARGETS))
            classes = int(targets["classes"])
            # A tensor called "shape" has a form, too.
            described = {PLAIN: inputs} if isinstance(inputs.get("shape"), list) else inputs
            forms = {
                name: _form_of(each, classes if name == PLAIN else 0) for name, each in described.items()
            }
            return SignalForm(forms), Targets(classes, tuple(targets["shape"]))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ConfigError(f"{self.path}: lacks the form of inputs or targets; train again") from None

    def read_vocabulary(self) -> Vocabulary | None:
        """Read the vocabulary; None: the run has none."""
        dumped = _metadata(self.content).get(VOCABULARY)
        return None if dumped is None else restore(json.loads(dumped))


def _form_of(described: Mapping[str, Any], tokens: int) -> TensorForm:
    dtype = str(described["dtype"])
    return TensorForm(tuple(described["shape"]), dtype, tokens if dtype == "int64" else 0)


def read_evaluation(path: Path) -> Evaluation | None:
    """Read the evaluation of a model file from its head; None: the file is missing, torn, or has none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            dumped = json.loads(file.read(length))["__metadata__"][EVALUATION]
        known = json.loads(dumped)
        loss = math.nan if known["test_loss"] is None else float(known["test_loss"])
        metrics = {name: math.nan if each is None else float(each) for name, each in known["metrics"].items()}
        return Evaluation(
            int(known["batches"]), metrics.get("error_percent"), loss, known["versions"], metrics
        )
    except (OSError, OverflowError, ValueError, LookupError, TypeError, AttributeError):
        return None


def load_model(folder: Path, checkpoint: Path | None = None) -> SavedModel:
    """Load the model of a run directory, verified.

    Args:
        folder: the run directory.
        checkpoint: model file that takes the place of the last model; a bare name is searched in the folder.

    Raises:
        ConfigError: the file is missing, torn, a pointer of Git LFS, or was changed.
    """
    path = folder / MODEL
    advice = "give a finished run's directory, or --master HOST:PORT of a live run"
    if checkpoint is not None:
        path = folder / checkpoint if (folder / checkpoint).exists() else checkpoint
        advice = (
            f"give a model file, such as {BEST} of a run with run.keep_best = true, or "
            "kept-BATCH.safetensors with run.keep = [BATCH, ...]"
        )
    return load_tensors(path, advice)


def load_tensors(path: Path, advice: str) -> SavedModel:
    """Load a file of tensors, verified.

    Args:
        path: of the file.
        advice: last part of the message for a file that is missing.

    Raises:
        ConfigError: the file is missing, torn, a pointer of Git LFS, or was changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_file(path, advice)
    again = "copy the file again, or train the run again"
    try:
        state = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: is torn or no safetensors file ({reason}); {again}") from None
    expected = _metadata(content).get(CHECKSUM)
    if expected is not None and expected != _checksum(state):
        raise ConfigError(f"{path}: was changed: its weights do not have the checksum {expected}; {again}")
    return SavedModel(path, content, state)


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of safetensors' bytes, whose header was verified."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata


def _checksum(state: Mapping[str, Tensor]) -> str:
    """Compute the CRC-32 of names and bytes, in the order of names."""
    import torch

    crc = 0
    for name, tensor in sorted(state.items()):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
