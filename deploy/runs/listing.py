"""Runs on this machine: those in a folder, and those of living masters wherever they are."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from common.errors import ConfigError
from common.observe import measures
from deploy.runs.directory import CONFIG, saved_config
from deploy.runs.files import LOCK, read_object
from deploy.runs.metrics import EVALUATION, read_metrics
from deploy.runs.summary import SUMMARY

# Folder in which commands create run directories.
RUNS = Path("runs")
FINISHED, TRAINING, STOPPED = "finished", "training", "stopped"


@dataclass(frozen=True)
class Listed:
    """A run on this machine.

    Attributes:
        path: the run directory, or the folder of a master's state.
        name: of the run.
        state: finished, training or stopped.
        batches: batches at the last evaluation.
        of_batches: batches of the whole run.
        metrics: the task's metrics and the loss at the last evaluation, by name.
        began: local time, ISO 8601.
        page: address of the live page; None: no master lives.
    """

    path: str
    name: str
    state: str
    batches: int
    of_batches: int
    metrics: dict[str, float | None]
    began: str
    page: str | None


def list_runs(folder: Path = RUNS) -> list[Listed]:
    """List the runs in a folder and the runs of living masters, oldest first.

    Args:
        folder: has a folder for each run; a comparison's runs lie two folders deeper.
    """
    living = dict(_living())
    configs = [path for depth in ("*", "*/*/*") for path in folder.glob(f"{depth}/{CONFIG}")]
    paths = {path.parent.absolute() for path in configs} | living.keys()
    locked = _locked()
    found = [_describe(path, living.get(path), locked) for path in paths]
    return sorted((each for each in found if each), key=lambda each: (each.began, each.path))


def find_page(path: Path) -> str | None:
    """Return the address of the live page of a run directory's master; None: no master lives."""
    return dict(_living()).get(path.absolute())


def _living() -> Iterator[tuple[Path, str]]:
    """Yield the folder and the live page of every master of this user."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words, here = process.info["cmdline"] or [], process.info["cwd"]
        folder = _value(words, "--state-dir")
        if "master" not in words or folder is None or not here:
            continue
        state = Path(here, folder)
        try:
            place = (state / "web").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):  # another program, or a master that is starting
            continue
        # A master with certificates notes the scheme, too.
        page = place if "://" in place else f"http://{place}"
        yield (state.parent if (state.parent / CONFIG).exists() else state), f"{page}/"


def _value(words: list[str], option: str) -> str | None:
    """Return the value of an option, which follows it or is joined to it; None without one."""
    for word, following in itertools.pairwise([*words, ""]):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
        if word == option and following:
            return following
    return None


def _describe(path: Path, page: str | None, locked: set[int]) -> Listed | None:
    """Describe a run; None: the folder holds no run that can be read."""
    try:
        if not (path / CONFIG).exists():  # the state of a master that was started by hand
            return Listed(str(path), path.name, TRAINING, 0, 0, {}, _time(path), page)
        config = saved_config(path)
        if (path / SUMMARY).exists():
            summary = read_object(path / SUMMARY, "give the directory of a run")
            done, metrics = config.run.batches, measures.of(summary)
            state = FINISHED
        else:
            lines = [line for line in read_metrics(path) if line["kind"] == EVALUATION]
            last: dict[str, Any] = lines[-1] if lines else {"batches": 0, "metrics": {}, "test_loss": None}
            done, metrics = int(last["batches"]), measures.of(last) if lines else {}
            state = TRAINING if page or _inode(path / LOCK) in locked else STOPPED
        began = _time(path / CONFIG)
        return Listed(str(path), config.run.name, state, done, config.run.batches, metrics, began, page)
    except (ConfigError, OSError, KeyError, TypeError, ValueError):
        return None


def _time(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "seconds")


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _locked() -> set[int]:
    """Return the inodes of the locked files of this machine; empty where the system does not tell."""
    try:
        with open("/proc/locks", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return set()
    return {int(row[5].rpartition(":")[2]) for row in rows if len(row) > 5 and row[1] == "FLOCK"}


def shorten(path: str) -> str:
    """Return a path as a person in the working directory would write it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
