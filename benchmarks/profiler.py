"""py-spy's samples of training processes: the functions at work, by thread."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from common.errors import RunFailedError

# py-spy lies beside the interpreter; `make setup` installs it.
PY_SPY = Path(sys.executable).with_name("py-spy")
RATE = 100
# Functions with a smaller share of the time, in per cent, are omitted.
LEAST = 0.3

_LINE = re.compile(
    r"thread \(\w+\): (?P<thread>[^;]+)(;.*)?;(?P<function>[^;]+) \((?P<file>[^:;]+):\d+\) (?P<count>\d+)$"
)


def sample(processes: Mapping[str, int], seconds: int) -> dict[str, dict[str, float]]:
    """Measure the percentage of time that each function was at work: by process, "thread: function (file)".

    Args:
        processes: process ids by name.
        seconds: duration of the measurement, which starts now.

    Raises:
        RunFailedError: py-spy cannot inspect a process.
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
            _, message = spy.communicate()
            if spy.returncode or not outs[each].exists():
                raise RunFailedError(f"py-spy, process {processes[each]}: {message.strip()}")
        return {each: shares(out.read_text(encoding="utf-8"), RATE * seconds) for each, out in outs.items()}


def shares(text: str, samples: int) -> dict[str, float]:
    """Read py-spy's raw lines: percentage of all samples by innermost function, largest first."""
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        if match := _LINE.match(line):
            counts[f"{match['thread']}: {match['function']} ({match['file']})"] += int(match["count"])
    percents = {function: round(100 * count / samples, 1) for function, count in counts.most_common()}
    return {function: percent for function, percent in percents.items() if percent >= LEAST}
