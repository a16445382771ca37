"""Interface of the engines under `layerwise train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MASTER, STORE, SLAVE = "master", "store", "slave"


@dataclass(frozen=True)
class Order:
    """A process to be placed.

    Attributes:
        name: of the process.
        command: subcommand of `layerwise`: MASTER, STORE or SLAVE.
        arguments: of the command, without those that name a slave's own files or a token.
        tls: folder of the process' certificate; None: in the clear.
        log: file on this machine, to which the output is appended.
        number: of a slave, from 0.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    tls: Path | None
    log: Path
    number: int = 0


class Process(Protocol):
    """Process under an engine, from the order to the end.

    Attributes:
        place: host and process number; None before the start.
        loss: reason for the end of a process that left no exit code.
    """

    place: tuple[str, int] | None
    loss: str

    def poll(self) -> int | None:
        """Return the exit code, once the log is complete; -N after signal N, None before the end."""

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""

    def wait(self, seconds: float) -> bool:
        """Wait for the end; False if the process goes on."""

    def kill(self) -> None:
        """Kill the process, and wait for the end."""


class Engine(Protocol):
    """Places processes.

    Attributes:
        host: address of this machine, on which slaves reach the master.
    """

    host: str

    def place(self, order: Order) -> Process:
        """Start a process, now or when there is room.

        Raises:
            OSError: files or memory are short at present.
        """

    def tell(self) -> list[str]:
        """Return news of places, as lines."""

    def close(self) -> None:
        """Give every place back, after the end of the processes."""
