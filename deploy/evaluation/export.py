"""`layerwise export`: the plain network's weights, for torch alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from common.data import datasets
from common.errors import ConfigError
from deploy.evaluation.reader import Reader
from deploy.runs.directory import MODEL, save_model


def export_run(run_dir: Path | None, master: str | None, output: Path) -> int:
    """Write a run's weights to a .safetensors or a .pt file; the exit code.

    Raises:
        ConfigError: no such run, or a file of another kind.
        LayerwiseError: no master there.
    """
    if output.suffix not in (".safetensors", ".pt"):
        raise ConfigError(f"--output {output}: end it in .safetensors, or in .pt for torch.save's format")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: {output.parent} is no folder; make it first")
    if run_dir is not None and not (run_dir / MODEL).exists():
        raise ConfigError(f"{run_dir}: has no {MODEL}; give a finished run's directory, or --master")
    written = output.with_name(f".{output.name}.new")
    try:
        if run_dir is not None and output.suffix == ".safetensors":
            shutil.copyfile(run_dir / MODEL, written)
        else:
            _write(run_dir, master, output.suffix, written)
        written.replace(output)
    finally:
        written.unlink(missing_ok=True)
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
