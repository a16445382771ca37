"""Isolation of a check in a child process: a crash of user code or torch harms the check alone.

The set-up arrives by standard input, the verdict leaves by a separate descriptor; both are JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import strict_json
from common.config import files
from common.credentials import Credentials
from common.errors import RunFailedError
from common.lifecycle import PARENT, end_with_parent
from deploy.doctor.findings import State, Verdict
from deploy.doctor.setup import Setup


def examine_in_child(name: str, setup: Setup, seconds: float) -> Verdict:
    """Run a check in a child process.

    Raises:
        RunFailedError: the process died, or did not end in time.
    """
    with (
        os.fdopen(os.memfd_create("verdict"), "rb") as verdict,
        os.fdopen(os.memfd_create("errors"), "rb") as errors,
    ):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, name, str(verdict.fileno())],
            stdin=subprocess.PIPE,
            # User code may print.
            stdout=errors.fileno(),
            stderr=errors.fileno(),
            pass_fds=[verdict.fileno()],
            env={**os.environ, PARENT: str(os.getpid())},
            start_new_session=True,
        )
        _feed(process, _pack(setup), seconds)
        code = process.returncode
        answer, last = _content(verdict), _content(errors).strip().rpartition("\n")[2]
    if code or not answer:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise RunFailedError(f"the check's process {how}" + (f": {last}" if last else ""))
    return _verdict(json.loads(answer))


def _feed(process: subprocess.Popen[bytes], text: str, seconds: float) -> None:
    """Feed the process, wait for the end, and kill every process of its group."""
    try:
        process.communicate(text.encode(), seconds)
    except subprocess.TimeoutExpired:
        raise RunFailedError(f"no result within {seconds:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _content(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode("utf-8", "replace"))


def _pack(setup: Setup) -> str:
    """Encode a set-up for a child process."""
    return strict_json.encode(
        {
            "config": setup.config.to_toml() if setup.config else None,
            "master": setup.master,
            "token": setup.shown.token,
            "data": str(setup.data) if setup.data else None,
            "code": str(setup.code) if setup.code else None,
            "root": str(setup.root),
            "tls": str(setup.tls) if setup.tls else None,
        }
    )


def _unpack(text: str) -> Setup:
    found = json.loads(text)
    config = found["config"]
    return Setup(
        files.parse(config, "the configuration") if config is not None else None,
        master=found["master"],
        shown=Credentials(token=found["token"]),
        data=Path(found["data"]) if found["data"] else None,
        code=Path(found["code"]) if found["code"] else None,
        root=Path(found["root"]),
        tls=Path(found["tls"]) if found["tls"] else None,
    )


def _verdict(found: dict[str, str]) -> Verdict:
    return Verdict(State(found["state"]), found["found"], found["fix"])


def main() -> None:
    """Run the check named on the command line."""
    from deploy.doctor.checks import CHECKS

    end_with_parent()
    name, descriptor = sys.argv[1:]
    verdict = CHECKS[name].examine(_unpack(sys.stdin.read()))
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as file:
        file.write(strict_json.encode({"state": verdict.state, "found": verdict.found, "fix": verdict.fix}))


if __name__ == "__main__":
    main()
