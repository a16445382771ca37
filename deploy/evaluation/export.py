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
from deploy.runs.model import encode_model, load_model

if TYPE_CHECKING:
    from torch import Tensor


def export_directory(path: Path, output: Path) -> int:
    """Write a finished run's weights to a .safetensors or .pt file, and return the exit code.

    Raises:
        ConfigError: the run has no model, the model is damaged, or the file has another suffix.
        OSError: the file cannot be written.
    """
    _check_output(output)
    model, whole = load_model(path), output.suffix == ".safetensors"
    return _write(output, model.content if whole else _encode_for_torch(model.state))


def export_master(
    master: str, output: Path, data: Path | None, code: Path | None, tls: Path | None = None
) -> int:
    """Write a live run's weights to a .safetensors or .pt file, and return the exit code.

    Args:
        master: HOST:PORT.
        output: the file.
        data: folder that replaces `data.path`.
        code: folder of the user's files.
        tls: folder of a certificate; None: in the clear.

    Raises:
        ConfigError: the file has another suffix, or the run's data or code is missing here.
        OSError: the file cannot be written.
        LayerwiseError: the master does not answer.
    """
    from common.models import network
    from deploy.evaluation.evaluator import Evaluator

    _check_output(output)
    with divert_output(), Reader(master, tls=tls) as reader:
        config = reader.config_to_run(code)
        dataset = datasets.of(config, path=data, code=code)
        blueprint = network.build(config, dataset.inputs, dataset.targets, code)
        state = Evaluator(config, dataset, blueprint).pull(reader.pull).state
    whole = output.suffix == ".safetensors"
    return _write(output, encode_model(state, config, dataset) if whole else _encode_for_torch(state))


def _check_output(output: Path) -> None:
    if output.suffix not in (".safetensors", ".pt"):
        raise ConfigError(
            f"--output {output}: end the name in .safetensors, or in .pt for torch.save's format"
        )
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: {output.parent} is not a folder; create it first")


def _write(output: Path, content: bytes) -> int:
    write_file(output, content)
    say(f"wrote {output}")
    return 0


def _encode_for_torch(state: Mapping[str, Tensor]) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()
