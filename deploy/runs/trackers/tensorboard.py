"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from common.config.sections import Config

FLUSH_SECONDS = 5
FOLDER = "tensorboard"


class Board:
    """Event file of a run."""

    def __init__(self, path: Path) -> None:
        self._writer = SummaryWriter(str(path), flush_secs=FLUSH_SECONDS)

    def describe(self, name: str, text: str) -> None:
        """Add a text."""
        self._writer.add_text(name, text)

    def note(self, values: Mapping[str, float], step: int) -> None:
        """Add scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, files: Iterable[Path]) -> None:
        """Add no file: the event files lie beside the result."""

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


def begin(folder: Path, config: Config, facts: Mapping[str, str]) -> Board:
    """Begin a run."""
    board = Board(folder / FOLDER)
    board.describe("config.toml", f"```toml\n{config.to_toml()}```")
    board.describe("versions", "\n".join(f"- {name} {version}" for name, version in facts.items()))
    return board
