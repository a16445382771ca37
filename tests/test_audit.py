"""Judgement of the audit: an advisory fails, a machine without the service passes and says why."""

from __future__ import annotations

import json
from typing import Any

from tests.audit import judge


def report(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


SAFE = {"name": "click", "version": "8.5.1", "vulns": []}
BAD = {
    "name": "old",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "description": ""}],
}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI"}


def test_an_advisory_fails_and_names_the_version_to_pin() -> None:
    code, words = judge(report(SAFE, BAD, UNKNOWN))
    assert code == 1
    assert "old 1.0: PYSEC-1, mended in 1.1" in words
    assert "unknown to the service: torch" in words


def test_pinned_versions_without_an_advisory_pass() -> None:
    assert judge(report(SAFE, SAFE)) == (0, "audit: no advisory for 2 pinned versions")


def test_a_machine_without_the_service_passes_and_says_why() -> None:
    code, words = judge(report(UNKNOWN, UNKNOWN))
    assert (code, "skipped" in words) == (0, True)
    code, words = judge("", "Connection refused")
    assert code == 0
    assert "skipped, since the advisory service cannot be asked here (Connection refused)" in words


def test_an_audit_that_fails_by_itself_fails() -> None:
    assert judge("", "ValueError: not a requirement") == (1, "audit: failed: ValueError: not a requirement")
    assert judge("") == (1, "audit: failed: no reason")
