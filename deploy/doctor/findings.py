"""Findings of checks: a state, the facts, and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """State of a finding, the worst last."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """Result of a check.

    Attributes:
        state: how bad the result is.
        found: the facts, in one line.
        fix: what to do about them; empty where nothing is to be done.
    """

    state: State
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Finding(Verdict):
    """A verdict with the name of its check."""

    name: str = ""


def ok(found: str) -> Verdict:
    """Build the verdict of a passed check."""
    return Verdict(State.OK, found)


def warning(found: str, fix: str) -> Verdict:
    """Build the verdict of a risk; runs may succeed."""
    return Verdict(State.WARNING, found, fix)


def failed(found: str, fix: str) -> Verdict:
    """Build the verdict of a defect; no run can succeed."""
    return Verdict(State.FAILED, found, fix)
