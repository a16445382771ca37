"""The driver's end of a process under an actor of Ray."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

from common.errors import ConfigError
from deploy.engines.ray_host import Report
from deploy.runs.process_logs import open_log

# An actor that cannot be reached at present is asked again after so long.
_AGAIN_SECONDS = 1.0
# For the end of a process that is killed, until the actor goes too.
_KILL_SECONDS = 3.0


class RayProcess:
    """Process under an actor, which starts when Ray has room.

    Args:
        actor: handle of a `Host`.
        first: reference to the report of the start.
        log: file to which the output is appended.
    """

    def __init__(self, actor: Any, first: Any, log: Path) -> None:
        self._actor = actor
        self._report = first
        self._log = log
        self._heard = 0
        self._code: int | None = None
        self._ask_at = 0.0
        self._asked = time.monotonic()
        self.place: tuple[str, int] | None = None
        self.loss = ""

    def poll(self) -> int | None:
        """Take a report that has come; return the exit code, None before the end."""
        if self._code is not None:
            return self._code
        if self._report is None:
            if time.monotonic() >= self._ask_at:
                self._report = self._actor.report.remote(self._heard)
        elif ray.wait([self._report], timeout=0)[0]:
            self._take()
        return self._code

    def waits_since(self, moment: float) -> bool:
        """Whether the process has had no place since a moment (`time.monotonic`)."""
        return self.place is None and self._code is None and self._asked <= moment

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended; a process without room ends by SIGTERM."""
        if self._code is not None:
            return
        if self.place is not None:
            self._actor.signal.remote(number)
        elif number == signal.SIGTERM:
            self._end(-number)

    def wait(self, seconds: float) -> bool:
        """Wait for the end; False if the process goes on."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._report is None:
                time.sleep(min(left, 0.1))
            else:
                ray.wait([self._report], timeout=left)
        return True

    def kill(self) -> None:
        """Kill the process, and wait for the end."""
        self.send_signal(signal.SIGKILL)
        if self.place is None or not self.wait(_KILL_SECONDS):
            self._end(-signal.SIGKILL)

    def _take(self) -> None:
        """Take the finished report, and ask for the next."""
        try:
            report: Report = ray.get(self._report)
        except ActorUnavailableError:
            self._report, self._ask_at = None, time.monotonic() + _AGAIN_SECONDS
            return
        except RayError as error:
            self._lose(error)
            return
        self._heard = report.end
        self._write(report.output)
        if report.pid:
            self.place = (report.host, report.pid)
        if report.code is None:
            self._report = self._actor.report.remote(self._heard)
        else:
            self._end(report.code)

    def _lose(self, error: RayError) -> None:
        # The lines that begin with a tab are details.
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
        reason = lines[-1].strip() if lines else type(error).__name__
        if isinstance(error, RayActorError) and getattr(error, "_actor_init_failed", False):
            self._write(
                b"layerwise: an actor cannot begin on its node; install the same layerwise on every "
                b"node, for the Python that runs Ray: " + reason.encode() + b"\n"
            )
            self._end(ConfigError.exit_code)
            return
        self.loss = f"was lost with its actor ({reason})"
        self._end(-signal.SIGKILL)

    def _end(self, code: int) -> None:
        """Note the exit code, and give the actor's room back."""
        if self._code is None:
            self._code, self._report = code, None
            ray.kill(self._actor)

    def _write(self, output: bytes) -> None:
        if output:
            with open_log(self._log) as file:
                file.write(output)
