"""What survives: the state directory. Shards in memory-mapped files, the roster in a JSON file."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from common.errors import NoRoomError, RefusedError, RunFailedError
from common.observe import metrics
from common.observe.metrics import Histogram
from common.shards.table import Table
from master.disk import mapped
from master.disk.mapped import MappedSlots
from master.store.optimizers import Bytes
from master.store.shard import Record, Slots

log = logging.getLogger("layerwise.master")

# Events that somebody should look at.
TROUBLE = ("failed", "fenced", "no snapshot")
# Events that are kept at hand for who watches, and how far back a start looks for them in the file.
RECENT_EVENTS, TAIL_BYTES = 200, 64 << 10

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class StateDirectory:
    """The master's files, locked against a second master.

    Raises:
        RefusedError: another master holds the directory, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Histogram(metrics.JOURNAL_SECONDS)
        self._shards = path / "shards"
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._events = (path / "events.jsonl").open("a", buffering=1)
            self.recent: deque[dict[str, Any]] = deque(_tail(path / "events.jsonl"), RECENT_EVENTS)
        except BlockingIOError:
            raise RefusedError(
                f"{path}: another master is using this state directory; stop it or give another --state-dir"
            ) from None
        except OSError as error:
            raise RefusedError(
                f"{path}: cannot be used as a state directory: {error.strerror}; give another --state-dir"
            ) from None

    @property
    def other_boot(self) -> bool:
        """Whether the machine was started anew since a master last used the directory.

        What that one wrote into mapped files may then never have reached the disk. The boot is kept here, in
        a file that is durable before the first commit, and not in the records: of two records the newer may
        be lost and the older vouch for pages that were written since.
        """
        return self.read("boot") not in (None, "", boot())

    def note_boot(self) -> None:
        """From now on this boot's writes are what is here."""
        self.write("boot", boot())

    def create(self, name: str, table: Table, nbytes: int | None = None) -> Slots:
        """Room for a new shard; it exists once its first record is committed.

        Args:
            name: the shard.
            table: its tensors.
            nbytes: of each buffer: the table's and an optimizer's behind them; left out, the table's alone.

        Raises:
            NoRoomError: there is no room for it.
        """
        return self._placed(name, table, nbytes, lambda _: None)

    def put_back(
        self,
        name: str,
        table: Table,
        record: Record,
        fill: Callable[[Bytes], None],
        nbytes: int | None = None,
    ) -> None:
        """Replace a shard's file by one with this record and what `fill` puts into its buffer.

        It is whole, and on the disk, before it takes its place.

        Raises:
            NoRoomError: there is no room for it.
        """

        def write(slots: MappedSlots) -> None:
            fill(slots.buffers[0])
            slots.commit(dataclasses.replace(record, active=0))
            slots.flush()

        self._placed(name, table, nbytes, write)
        sync(self._shards)

    def _placed(
        self, name: str, table: Table, nbytes: int | None, write: Callable[[MappedSlots], None]
    ) -> MappedSlots:
        path = self._file(name)
        fresh = path.with_suffix(".new")
        try:
            slots = mapped.create(fresh, name, table, table.nbytes if nbytes is None else nbytes)
            slots.took = self.journal.observe
            write(slots)
            # Under its name once it is whole: a crash leaves no shard without its table.
            fresh.replace(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise NoRoomError(f"{path}: no room for the shard: {error.strerror}; free disk space") from None
        return slots

    def remove(self, name: str) -> None:
        """Forget a shard."""
        self._file(name).unlink(missing_ok=True)
        sync(self._shards)

    def existing(self) -> dict[str, Slots]:
        """The shards that were committed before.

        Raises:
            RunFailedError: a shard's file is torn.
        """
        found, damaged = self.survey()
        for why in damaged.values():
            raise RunFailedError(why)
        return found

    def survey(self) -> tuple[dict[str, Slots], dict[str, str]]:
        """The shards that were committed before and are whole; of the others, what is wrong with each."""
        found: dict[str, Slots] = {}
        damaged: dict[str, str] = {}
        for path in sorted(self._shards.glob("*.shard")):
            try:
                name, slots = mapped.opened(path)
                slots.took = self.journal.observe
                if slots.recover():
                    found[name] = slots
            except RunFailedError as error:
                damaged[path.stem.replace("-", "/", 1)] = str(error)
        return found, damaged

    def write(self, name: str, text: str) -> None:
        """Write a small file durably; there is never half of one.

        Raises:
            NoRoomError: it cannot be written; the old one is still there.
        """
        fresh = self.path / f".{name}.new"
        try:
            write_durably(fresh, text)
            fresh.replace(self.path / name)
            sync(self.path)
        except OSError as error:
            raise NoRoomError(
                f"{self.path / name}: cannot be written: {error.strerror}; free disk space"
            ) from None

    def read(self, name: str) -> str | None:
        """A small file's text, or None where there is none."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def discard(self, name: str) -> None:
        """Remove a small file, durably."""
        (self.path / name).unlink(missing_ok=True)
        sync(self.path)

    def log(self, event: dict[str, Any]) -> None:
        """Add a line to events.jsonl: what happened when, in seconds of the epoch."""
        event = {"time": round(time.time(), 3), **event}
        self.recent.append(event)
        level = logging.WARNING if event["event"] in TROUBLE else logging.INFO
        log.log(level, "%s", _said(event), extra=event)
        line = json.dumps(event) + "\n"
        # The run does not hang on its log: on a full disk a line may be lost.
        with contextlib.suppress(OSError):
            self._events.write(line)

    def close(self) -> None:
        """Let another master have the directory."""
        with contextlib.suppress(OSError):
            self._events.close()
        self._lock.close()

    def _file(self, name: str) -> Path:
        return self._shards / (name.replace("/", "-") + ".shard")


def _said(event: dict[str, Any]) -> str:
    """An event in words; what is long stays in the log."""
    plain = {
        k: v for k, v in event.items() if k not in ("time", "event") and isinstance(v, str | int | float)
    }
    told = ", ".join(f"{name} {value}" for name, value in plain.items() if value != "")
    return f"{event['event']}: {told}" if told else str(event["event"])


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last events of a log that may be long, or torn by a crash."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        # The first line may have been cut.
        lines = file.read().decode("utf-8", "replace").splitlines()
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            found += [event] if isinstance(event, dict) else []
    return found


def boot() -> str:
    """This boot of this machine; empty where the system does not tell."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def sync(folder: Path) -> None:
    """A new name is durable once its folder is."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_durably(path: Path, text: str) -> None:
    """A small file, on the disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def seal(value: dict[str, Any]) -> str:
    """JSON with a checksum of its own."""
    return json.dumps({"checksum": _checksum(value), **value}, indent=1)


def unseal(text: str, path: Path) -> dict[str, Any]:
    """What was sealed.

    Raises:
        RunFailedError: the text is torn or was changed.
    """
    try:
        value: dict[str, Any] = json.loads(text)
        if value.pop("checksum") == _checksum(value):
            return value
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RunFailedError(f"{path}: is torn or was changed (checksum); restore it from a copy")


def _checksum(value: dict[str, Any]) -> int:
    # As JSON has it: numbers that are keys are text there.
    return zlib.crc32(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode())
