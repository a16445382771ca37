"""What py-spy sees of processes that train: of each thread, the functions that it is found in."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from common.errors import RunFailedError

# Beside the interpreter: of the packages that `make setup` installs.
PY_SPY = Path(sys.executable).with_name("py-spy")
RATE = 100
# Less, in per cent of the time, is not told.
LEAST = 0.3

_LINE = re.compile(
    r"thread \(\w+\): (?P<thread>[^;]+)(;.*)?;(?P<function>[^;]+) \((?P<file>[^:;]+):\d+\) (?P<count>\d+)$"
)


def spied(processes: Mapping[str, int], seconds: int) -> dict[str, dict[str, float]]:
    """Per cent of so many seconds that each function was at work in: by process, "thread: function (file)".

    Args:
        processes: process ids by name.
        seconds: from now on.

    Raises:
        RunFailedError: py-spy may not look into one.
    """
    with tempfile.TemporaryDirectory() as name:
        outs = {each: Path(name) / each for each in processes}
        spies = {
            each: subprocess.Popen(
                [str(PY_SPY), "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(RATE),
                 "--nonblocking", "--threads", "--function", "--format", "raw", "--output", str(outs[each])],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            for each, pid in processes.items()
        }  # fmt: skip
        for each, spy in spies.items():
            _, said = spy.communicate()
            if spy.returncode or not outs[each].exists():
                raise RunFailedError(f"py-spy, process {processes[each]}: {said.strip()}")
        return {each: shares(out.read_text(encoding="utf-8"), RATE * seconds) for each, out in outs.items()}


def shares(text: str, samples: int) -> dict[str, float]:
    """Of py-spy's raw lines, per cent of all samples by innermost function, the most first."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if match := _LINE.match(line):
            found[f"{match['thread']}: {match['function']} ({match['file']})"] += int(match["count"])
    percents = {function: round(100 * count / samples, 1) for function, count in found.most_common()}
    return {function: percent for function, percent in percents.items() if percent >= LEAST}
