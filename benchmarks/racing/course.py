"""Files in the folder of a row: its processes write them, and the race reads them.

Every time is of the system's monotonic clock, which all processes share. A look is a rank's part of the
plain network's state after so many examples, as `look-EXAMPLES-RANK.safetensors`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Examples, and seconds since the start.
Progress = list[tuple[int, float]]


@dataclass(frozen=True)
class Course:
    """Folder of a row, and the intervals of its files.

    Attributes:
        folder: folder of the row.
        every: examples between two looks.
        checkpoint: batches between two checkpoints; 0: none.
        kill_at: examples after which the last rank kills itself, once; 0: never.
    """

    folder: Path
    every: int
    checkpoint: int = 0
    kill_at: int = 0

    def begin(self, at: float | None = None) -> None:
        """Note the start of the clock, unless an earlier attempt has started it."""
        file = self.folder / "began"
        if not file.exists():
            _write_whole(file, f"{time.monotonic() if at is None else at}")

    def began(self) -> float | None:
        """Return the start of the clock; None before."""
        file = self.folder / "began"
        return float(file.read_text()) if file.exists() else None

    def note_progress(self, examples: int) -> None:
        """Note the number of examples that all processes together have trained."""
        with (self.folder / "progress").open("a", encoding="ascii") as file:
            file.write(f"{examples} {time.monotonic()}\n")

    def progress(self) -> Progress:
        """Return the noted progress, in order."""
        file, began = self.folder / "progress", self.began()
        if began is None or not file.exists():
            return []
        pairs = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
        return [(int(examples), float(at) - began) for examples, at in pairs]

    def look(self, state: Mapping[str, Tensor], examples: int, rank: int = 0) -> None:
        """Keep a rank's part of the state."""
        from safetensors.torch import save_file

        at = time.monotonic()
        part = self.folder / f"part-{rank}"
        save_file(dict(state), part, {"at": repr(at)})
        part.rename(self.folder / f"look-{examples:012d}-{rank}.safetensors")

    def looks(self, ranks: int) -> dict[int, list[Path]]:
        """Return the files of every look of which all ranks' parts are there, by examples, in order."""
        found: dict[int, list[Path]] = {}
        for file in sorted(self.folder.glob("look-*.safetensors")):
            found.setdefault(int(file.stem.split("-")[1]), []).append(file)
        return {examples: files for examples, files in found.items() if len(files) == ranks}

    def watch(self) -> None:
        """Note the readiness of an onlooker."""
        (self.folder / "watched").touch()

    @property
    def watched(self) -> bool:
        """Whether an onlooker is ready."""
        return (self.folder / "watched").exists()

    def strike(self) -> bool:
        """Return whether the only kill of the row is due now, and note the kill."""
        file = self.folder / "killed"
        if file.exists():
            return False
        file.touch()
        return True

    @property
    def struck(self) -> bool:
        """Whether a process of the row was killed."""
        return (self.folder / "killed").exists()


def _write_whole(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    part.write_text(text)
    part.rename(file)
