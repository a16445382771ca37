"""Sources of a master's pages, behind a small interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from common.config.sections import Config
from common.observe.health import Pulse
from common.observe.metrics import Histogram
from common.wire.messages import StatusReply
from master.tally import SeatTally, Tally


class Showing(Protocol):
    """Process with pages of its own, as it has told of itself."""

    @property
    def host(self) -> str:
        """Name of the machine."""

    @property
    def metrics(self) -> str:
        """Address of the pages; empty: none."""


@dataclass(frozen=True)
class View:
    """Sources of the pages; callables are read anew for each page.

    Attributes:
        config: the run's configuration.
        status: state of the run.
        shown: slaves with a lease, then waiting ones, then stores.
        events: newest events of the run, oldest first.
        address: HOST:PORT of the control port.
        mailbox_depth: messages on their way to a seat (layer, replica).
        seat: pushes and pulls of a seat (layer, replica), wherever the shards are.
        tally: the master's counters.
        journal: seconds of each commit.
        snapshots: seconds of each snapshot.
        pulses: signs of life of the master's parts.
        secure: the control port speaks TLS.
    """

    config: Config
    status: Callable[[], StatusReply]
    shown: Callable[[], Sequence[Showing]]
    events: Callable[[], list[dict[str, Any]]]
    address: Callable[[], str]
    mailbox_depth: Callable[[int, int], int]
    seat: Callable[[int, int], SeatTally]
    tally: Tally
    journal: Histogram
    snapshots: Histogram
    pulses: Callable[[], list[Pulse]]
    secure: bool = False
