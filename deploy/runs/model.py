"""model.safetensors: the plain network's weights, with a checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common import strict_json
from common.config.sections import Config
from common.data.datasets import Dataset
from common.data.vocabularies import Vocabulary, restore
from common.errors import ConfigError
from deploy.runs.files import read_file

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model.safetensors"
CHECKSUM, VOCABULARY = "crc32", "vocabulary"


def encode_model(state: Mapping[str, Tensor], config: Config, data: Dataset) -> bytes:
    """Encode a plain state dict as safetensors.

    Configuration, form of inputs and targets, vocabulary and checksum are metadata.
    """
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in state.items()}
    metadata = {
        "config": config.to_toml(),
        "inputs": strict_json.encode(
            {
                "shape": data.input_shape,
                "dtype": data.input_dtype,
                "scale": data.scale,
                "mean": data.mean,
                "std": data.std,
            }
        ),
        "targets": strict_json.encode({"shape": data.targets.shape, "classes": data.classes}),
        "format": "pt",
        CHECKSUM: _checksum(state),
    }
    if data.vocabulary is not None:
        metadata[VOCABULARY] = strict_json.encode(data.vocabulary.dump())
    return save(state, metadata)


def read_model(folder: Path) -> bytes:
    """Read the model of a run directory, verified.

    Raises:
        ConfigError: the file is missing, torn, a pointer of Git LFS, or was changed.
    """
    return _read(folder)[0]


def load_model(folder: Path) -> dict[str, Tensor]:
    """Load the state dict of a run directory's model, verified; errors as of `read_model`."""
    return _read(folder)[1]


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Read the vocabulary of a run directory's model; None: the run has none. Errors as of `read_model`."""
    dumped = _metadata(read_model(folder)).get(VOCABULARY)
    return None if dumped is None else restore(json.loads(dumped))


def _read(folder: Path) -> tuple[bytes, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / MODEL
    content = read_file(path, "give a finished run's directory, or --master HOST:PORT of a live run")
    again = "copy the file again, or train the run again"
    try:
        state = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: is torn or no safetensors file ({reason}); {again}") from None
    expected = _metadata(content).get(CHECKSUM)
    if expected is not None and expected != _checksum(state):
        raise ConfigError(f"{path}: was changed: its weights do not have the checksum {expected}; {again}")
    return content, state


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
