"""Agreement of a run's processes: equal data, user's files and versions. Decides; no I/O, no clock.

The first process says what the run works with. Every later process must hold equals, also in a resumed run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.versions import release_numbers
from common.wire.messages import Holdings

_DATA = (
    "give every machine equal data; a data function must shuffle and split by a fixed seed, and number "
    "classes by sorted(...), never by the order of a set; or begin a new run with the present data"
)
_FILES = "copy the first machine's files to the others, or begin a new run with the present files"
_VERSIONS = "install equal versions on every machine"
_NOTHING = "nothing"


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison: why a process is refused, and a difference that only deserves a warning."""

    refusal: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Agreement:
    """Holdings of a run's first process, and its host.

    Attributes:
        host: of the first process; None before one has spoken.
        holdings: of the first process.
    """

    host: str | None = None
    holdings: Holdings = field(default_factory=Holdings)

    @staticmethod
    def restore(saved: Mapping[str, Any]) -> Agreement:
        """Restore the agreement from an earlier master's `dump`; empty for a master that kept none."""
        kept = saved.get("agreement")
        return Agreement(kept["host"], Holdings(**kept["holdings"])) if kept else Agreement()

    def dump(self) -> dict[str, Any]:
        """Values that must outlive the master, plain for JSON."""
        if self.host is None:
            return {}
        return {"agreement": {"host": self.host, "holdings": dataclasses.asdict(self.holdings)}}

    def hear(self, host: str, holdings: Holdings, *, begun: bool) -> tuple[Agreement, Verdict]:
        """Compare a process with the first one.

        Args:
            host: of the process.
            holdings: of the process.
            begun: whether the run has a shard or a lease. Before that nothing depends on the first process'
                holdings, and the present process takes its place.
        """
        if self.host is None or not begun:
            return Agreement(host, holdings), Verdict()
        return self, compare(self, Agreement(host, holdings))


def compare(first: Agreement, other: Agreement) -> Verdict:
    """Name every difference between two processes, with the remedy.

    Data and files must be equal. Versions may differ behind major and minor, which deserves a warning. An
    entry that only one process has is a difference too: an old slave, which says nothing, is refused.
    """
    versions = _differences(first.holdings.versions, other.holdings.versions)
    far = {name: pair for name, pair in versions.items() if _differ(*pair, numbers=2)}
    near = {name: pair for name, pair in versions.items() if name not in far and _differ(*pair)}
    data = _differences(first.holdings.data, other.holdings.data)
    files = _differences(first.holdings.files, other.holdings.files)
    found = (("versions", far, _VERSIONS), ("user's files", files, _FILES), ("data", data, _DATA))
    refusal = next((_tell(what, pairs, first, other, advice) for what, pairs, advice in found if pairs), "")
    return Verdict(refusal, _tell("versions", near, first, other, _VERSIONS) if near else "")


def _differences(first: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    names = [*first, *(name for name in other if name not in first)]
    pairs = {name: (first.get(name, _NOTHING), other.get(name, _NOTHING)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _tell(
    what: str, pairs: Mapping[str, tuple[str, str]], first: Agreement, other: Agreement, advice: str
) -> str:
    beginning = f"the first process of the run, on {first.host or 'an unnamed host'}"
    present = f"this one, on {other.host or 'an unnamed host'}"
    listed = "; ".join(
        f"{name} is {one} in {beginning}, {two} in {present}" for name, (one, two) in pairs.items()
    )
    return f"the {what} differ: {listed}; {advice}"


def _differ(first: str, other: str, numbers: int | None = None) -> bool:
    """Whether the first numbers of two versions differ; builds for a CPU and for CUDA count as equal."""
    return release_numbers(first)[:numbers] != release_numbers(other)[:numbers]
