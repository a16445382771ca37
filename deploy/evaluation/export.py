"""`layerwise export`: write the plain network's weights for torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from common.data import datasets
from common.errors import ConfigError
from common.output import divert_output
from common.text import say
from deploy.evaluation.reader import Reader
from deploy.runs.files import write_file
from deploy.runs.model import encode_model, load_model, read_model

if TYPE_CHECKING:
    from torch import Tensor


def export_run(run_dir: Path | None, master: str | None, output: Path) -> int:
    """Write a run's weights to a .safetensors or .pt file, and return the exit code.

    Raises:
        ConfigError: the run has no model, the model is damaged, or the file has another suffix.
        OSError: the file cannot be written.
        LayerwiseError: the master does not answer.
    """
    if output.suffix not in (".safetensors", ".pt"):
        raise ConfigError(
            f"--output {output}: end the name in .safetensors, or in .pt for torch.save's format"
        )
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: {output.parent} is not a folder; create it first")
    with divert_output():
        content = _encode(run_dir, master, output.suffix)
    write_file(output, content)
    say(f"wrote {output}")
    return 0


def _encode(run_dir: Path | None, master: str | None, suffix: str) -> bytes:
    """Return the content of the file."""
    if run_dir is not None:
        return read_model(run_dir) if suffix == ".safetensors" else _encode_for_torch(load_model(run_dir))
    from common.models import network
    from deploy.evaluation.evaluator import Evaluator

    assert master is not None
    with Reader(master) as reader:
        config = reader.config()
        data = datasets.load(config.data)
        blueprint = network.build(config, data.inputs, data.targets)
        state = Evaluator(config, data, blueprint).pull(reader.pull).state
    return encode_model(state, config, data) if suffix == ".safetensors" else _encode_for_torch(state)


def _encode_for_torch(state: Mapping[str, Tensor]) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()
