"""Audit of pinned versions: `python tests/audit.py constraints.txt`, which installs pip-audit beside Python.

An advisory about a pinned version ends the audit with 1. A machine that cannot ask for advisories passes;
another failure of the audit does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TOOL = "pip-audit >= 2.7"
# Words about a service, or an index of packages, that does not answer.
UNREACHABLE = (
    "connect", "timed out", "timeout", "resol", "unreachable", "retries", "proxy", "certificate",
    "http error", "no matching distribution", "service unavailable",
)  # fmt: skip


def judge(report: str, complaint: str = "") -> tuple[int, str]:
    """Judge the report of pip-audit; returns the exit code and what to print.

    Args:
        report: in JSON; empty where the audit has failed.
        complaint: last words of the audit, for a reason.
    """
    if not report and any(word in complaint.lower() for word in UNREACHABLE):
        return 0, f"audit: skipped, since the advisory service cannot be asked here ({complaint})"
    if not report:
        return 1, f"audit: failed: {complaint or 'no reason'}"
    found: list[dict[str, Any]] = json.loads(report)["dependencies"]
    skipped = [each["name"] for each in found if "skip_reason" in each]
    if len(skipped) == len(found):
        return (
            0,
            "audit: skipped, since the advisory service knows no package here; a mirror may be in its place",
        )
    bad = [line for each in found for line in _advisories(each)]
    unknown = f"; unknown to the service: {', '.join(skipped)}" if skipped else ""
    if bad:
        return 1, "\n".join([*bad, f"audit: {len(bad)} advisories; pin other versions{unknown}"])
    return 0, f"audit: no advisory for {len(found) - len(skipped)} pinned versions{unknown}"


def _advisories(dependency: dict[str, Any]) -> Iterable[str]:
    for each in dependency.get("vulns", ()):
        mended = ", ".join(each["fix_versions"]) or "no version"
        yield f"{dependency['name']} {dependency['version']}: {each['id']}, mended in {mended}"


def main(constraints: str) -> int:
    """Install pip-audit, ask for the pinned versions, print the judgement, and return the exit code."""
    python = [sys.executable, "-m"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*python, "pip", "install", *quiet, TOOL], capture_output=True, text=True)
    if installed.returncode:
        code, words = judge("", _last_line(installed.stderr))
        print(words)
        return code
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command = [*python, "pip_audit", *options, "--requirement", constraints, "--output", str(report)]
        audited = subprocess.run(command, capture_output=True, text=True)
        text = report.read_text(encoding="utf-8") if report.exists() else ""
    code, words = judge(text, _last_line(audited.stderr))
    print(words)
    return code


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
