"""Run checks side by side; errors and timeouts of checks are findings too."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable

from common.errors import LayerwiseError
from deploy.doctor.checks import Check
from deploy.doctor.child import examine_in_child
from deploy.doctor.findings import Finding, Verdict, failed
from deploy.doctor.setup import Setup

# Time beyond a check's own deadline for a process to be ended.
GRACE_SECONDS = 5.0


class _Examination:
    """Check under way on a dedicated thread."""

    def __init__(self, check: Check, setup: Setup) -> None:
        self._check = check
        self._setup = setup
        self._verdict: Verdict | None = None
        self._deadline = time.monotonic() + check.seconds + (GRACE_SECONDS if check.isolated else 0.0)
        # A check that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name=f"check {check.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        check = self._check
        try:
            if check.isolated:
                self._verdict = examine_in_child(check.name, self._setup, check.seconds)
            else:
                self._verdict = check.examine(self._setup)
        except LayerwiseError as error:
            self._verdict = failed(str(error), f"see to {check.help}, then ask again")
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._verdict = failed(f"the check itself failed: {reason}", f"see to {check.help} by hand")

    def finding(self) -> Finding:
        """Wait for the finding, until the deadline."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        verdict = self._verdict or failed(
            f"no result within {self._check.seconds:g} s", f"see to {self._check.help} by hand"
        )
        return Finding(**dataclasses.asdict(verdict), name=self._check.name)


def examine(setup: Setup, checks: Iterable[Check]) -> list[Finding]:
    """Run the applicable checks, and return their findings in order."""
    running = [_Examination(check, setup) for check in checks if check.applies(setup)]
    return [examination.finding() for examination in running]
