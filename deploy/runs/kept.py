"""kept-BATCH.safetensors: the network at the batches of `run.keep`, with M beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from common.config.sections import Config
from common.data.datasets import Dataset
from common.text import say
from common.wire.messages import Evaluation
from deploy.runs.files import write_file
from deploy.runs.model import encode_model, encode_tensors

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"kept-([1-9][0-9]*)\.safetensors")


class Network(Protocol):
    """Network to keep.

    Attributes:
        state: state dict of the plain network.
        gradients: state of every M or head as "k.name"; empty without.
    """

    @property
    def state(self) -> Mapping[str, Tensor]:
        """State dict of the plain network."""

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """State of every M or head as "k.name"; empty without."""


@dataclass(frozen=True)
class Kept:
    """Names of the files that are kept for a batch of `run.keep`."""

    batch: int

    @property
    def model(self) -> str:
        """Name of the model file."""
        return f"kept-{self.batch}.safetensors"

    @property
    def gradients(self) -> str:
        """Name of the file with every M or head; missing of a run without them."""
        return f"kept-{self.batch}-gradient.safetensors"


def find_kept(folder: Path) -> list[Kept]:
    """Find the kept networks of a run directory, in the order of batches."""
    found = (_NAME.fullmatch(path.name) for path in folder.glob("kept-*.safetensors"))
    return sorted((Kept(int(each[1])) for each in found if each), key=lambda kept: kept.batch)


class KeptModels:
    """The kept networks of a run, which an earlier part of the run may have written.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done = {kept.batch for kept in find_kept(folder)}

    def forget(self) -> None:
        """Delete the files, for a run that starts anew."""
        for batch in self._done:
            for name in (Kept(batch).model, Kept(batch).gradients):
                (self._folder / name).unlink(missing_ok=True)
        self._done.clear()

    def note(
        self, network: Network, evaluation: Evaluation, config: Config, data: Dataset, through: int
    ) -> None:
        """Write the network for every batch of `run.keep` that is due and not kept yet.

        After a rollback behind a batch, the batch is due again. The run goes on where a file cannot be
        written, and the next evaluation tries again.

        Args:
            network: to keep.
            evaluation: of the network.
            config: of the run.
            data: of the run.
            through: batches that the run had done when the evaluation was due.
        """
        self._done = {batch for batch in self._done if batch <= through}
        due = [Kept(batch) for batch in config.run.keep if batch <= through and batch not in self._done]
        for kept in due:
            files = {kept.model: encode_model(network.state, config, data, evaluation)}
            if network.gradients:
                # Before the model, whose presence says that both are there.
                files = {kept.gradients: encode_tensors(network.gradients, {})} | files
            try:
                for name, content in files.items():
                    write_file(self._folder / name, content)
            except OSError as error:
                say(f"{error.filename}: {error.strerror}; the run goes on, and tries again")
                return
            self._done.add(kept.batch)
