"""Pages of a store: /metrics and /healthz."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from common.observe import metrics
from common.observe.health import SHORTEST_SILENCE_SECONDS, Pulse, health_page
from common.observe.metrics import Scrape
from common.observe.web import Page
from common.wire.use import Utilization
from master.disk.state import StateDirectory
from master.storing.shelf import Shelf


@dataclass
class Exposition:
    """Pages of a store: its process and machine, its commits, and whether it gives signs of life.

    Shards, pushes and the age of the last report are on the master's page, by the store's number.

    Attributes:
        state: the store's directory.
        profile: of the run.
        shelf: with the shards; None until there is a master.
        used: last measured load of process and machine.
        silence_limit: seconds without the end of a report beyond which the store is not healthy.
    """

    state: StateDirectory
    profile: str = ""
    shelf: Shelf | None = None
    used: Utilization = field(default_factory=Utilization)
    silence_limit: float = SHORTEST_SILENCE_SECONDS
    _reported_at: float = field(default_factory=time.monotonic)

    def note_report(self) -> None:
        """Note that a report to the master has come to its end, with an answer or without.

        A store whose master is away goes on with the leases that it knows: it is well.
        """
        self._reported_at = time.monotonic()

    def health(self) -> Page:
        """Render /healthz: the age of the last report's end."""
        return health_page([Pulse("report", time.monotonic() - self._reported_at, self.silence_limit)])

    def metrics(self) -> Page:
        """Render the metrics in the text format of Prometheus."""
        scrape = Scrape(metrics.STORE, self.profile)
        if self.shelf:
            scrape.add(metrics.JOURNAL_SECONDS, self.state.journal)
            for reason, count in self.shelf.tally.refused_calls().items():
                scrape.add(metrics.REFUSED, count, reason)
            scrape.add_process(self.used, "", "")
        return Page(scrape.text(), metrics.CONTENT_TYPE)
