"""Manifests as a test asks for them, and their golden copies.

`python -m tests.deploy.engines.manifests` rewrites the copies.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from deploy.cli import cli

GOLDEN = Path(__file__).parent / "golden"
DIGITS = '[run]\nname = "digits"\n'
# The name of each copy, and the arguments behind `manifest`.
COPIES = {
    "slurm.sh": ("slurm", "--partition", "gpu", "--time", "8:00:00", "--cpus", "4", "--gpus", "1"),
    "slurm-insecure.sh": ("slurm", "--insecure", "--run-dir", "/shared/runs/digits"),
    "kubernetes.yaml": (
        "kubernetes",
        "--set",
        "cluster.profile=basic",
        "--gpus",
        "1",
        "--monitoring",
        "monitoring",
    ),
    "slurm-stores.sh": ("slurm", "--set", "cluster.stores=2", "--partition", "long"),
    "kubernetes-stores.yaml": ("kubernetes", "--set", "cluster.stores=2"),
}
_TOML = re.compile(r"^( *)\[run\]\n.*?^ *\[time\.options\]\n", re.DOTALL | re.MULTILINE)


def ask(config: Path, kind: str, *options: str) -> str:
    """Return what a manifest command prints.

    Raises:
        Exception: the command's error.
    """
    done = CliRunner().invoke(cli, ["manifest", kind, str(config), *options], catch_exceptions=True)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def ask_objects(config: Path, *options: str) -> list[dict[str, Any]]:
    """Return the objects of `manifest kubernetes`."""
    return list(yaml.safe_load_all(ask(config, "kubernetes", *options)))


def without_configuration(text: str) -> str:
    """Return a manifest with a word in place of the run's configuration, which has every key."""
    shorter, count = _TOML.subn(r"\1(configuration)\n", text)
    assert count == 1
    return shorter


def main(folder: Path) -> None:
    """Write the copies anew; `folder` holds the configuration."""
    config = folder / "digits.toml"
    config.write_text(DIGITS)
    GOLDEN.mkdir(exist_ok=True)
    for name, (kind, *options) in COPIES.items():
        (GOLDEN / name).write_text(without_configuration(ask(config, kind, *options)))


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
