"""`layerwise init`: a configuration, a network and data that train, to begin one's own from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from common.errors import ConfigError
from deploy.guidance import starter
from deploy.runs.files import write_file

FILES = ("run.toml", "my_network.py", "my_data.py")


def write_starter(folder: Path) -> list[Path]:
    """Write the starter's files, and return their paths.

    Raises:
        ConfigError: one of the files exists; none is written then.
        OSError: a file cannot be written.
    """
    paths = [folder / name for name in FILES]
    existing = [str(path) for path in paths if path.exists()]
    if existing:
        raise ConfigError(
            f"init: {', '.join(existing)} exists already; move it away, or give another folder: "
            "layerwise init FOLDER"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        write_file(path, resources.files(starter).joinpath(path.name).read_bytes())
    return paths
