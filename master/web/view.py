"""Sources of a master's pages, behind a small interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.config.sections import Config
from common.observe.health import Pulse
from common.observe.metrics import Histogram
from common.wire.messages import JoinRequest, StatusReply
from master.tally import SeatTally, Tally


@dataclass(frozen=True)
class View:
    """Sources of the pages; callables are read anew for each page.

    Attributes:
        config: the run's configuration.
        status: state of the run.
        slaves: slaves with a lease, then waiting ones.
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
    slaves: Callable[[], list[JoinRequest]]
    events: Callable[[], list[dict[str, Any]]]
    address: Callable[[], str]
    mailbox_depth: Callable[[int, int], int]
    seat: Callable[[int, int], SeatTally]
    tally: Tally
    journal: Histogram
    snapshots: Histogram
    pulses: Callable[[], list[Pulse]]
    secure: bool = False
