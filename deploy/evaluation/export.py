"""`layerwise export`: write the plain network's weights for torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from common.data import datasets
from common.errors import ConfigError
from common.output import divert_output
from deploy.evaluation.reader import Reader
from deploy.runs.directory import MODEL, save_model


def export_run(run_dir: Path | None, master: str | None, output: Path) -> int:
    """Write a run's weights to a .safetensors or .pt file, and return the exit code.

    Raises:
        ConfigError: the run has no model, or the file has another suffix.
        LayerwiseError: the master does not answer.
    """
    if output.suffix not in (".safetensors", ".pt"):
        raise ConfigError(
            f"--output {output}: end the name in .safetensors, or in .pt for torch.save's format"
        )
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: {output.parent} is not a folder; create it first")
    if run_dir is not None and not (run_dir / MODEL).exists():
        raise ConfigError(
            f"{run_dir}: has no {MODEL}; give a finished run's directory, or --master HOST:PORT of a live run"
        )
    fresh = output.with_name(f".{output.name}.new")
    try:
        if run_dir is not None and output.suffix == ".safetensors":
            shutil.copyfile(run_dir / MODEL, fresh)
        else:
            with divert_output():
                _write(run_dir, master, output.suffix, fresh)
        fresh.replace(output)
    finally:
        fresh.unlink(missing_ok=True)
    click.echo(f"wrote {output}", err=True)
    return 0


def _write(run_dir: Path | None, master: str | None, suffix: str, path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from common.models import network
    from deploy.evaluation.evaluator import Evaluator

    if run_dir is not None:
        torch.save(load_file(run_dir / MODEL), path)
        return
    assert master is not None
    with Reader(master) as reader:
        config = reader.config()
        data = datasets.load(config.data)
        blueprint = network.build(config, data.input_shape, data.classes)
        state = Evaluator(config, data, blueprint).pull(reader.pull).state
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_model(path, state, config, data)
