"""Actor of Ray: runs a command of layerwise as a child, keeps the output for the driver, and reports the end.

Imports neither Ray nor torch.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.lifecycle import PARENT
from common.supervision import SupervisedThread, describe
from deploy.engines.local import start

# Longest silence of an actor.
REPORT_SECONDS = 2.0
# Between two looks whether the child lives.
_LOOK_SECONDS = 0.2
# Output that waits for the driver; the oldest goes first.
MOST_BYTES = 4 << 20
_PIPE_BYTES = 1 << 20
# Deletes a folder once nobody holds the other end of the pipe.
_DELETE = 'exec 3<&0; (cat; rm -rf "$0") <&3 > /dev/null 2>&1 &'

# Files by name, of the folder that each option names.
Folders = Mapping[str, Mapping[str, bytes]]


class Report(NamedTuple):
    """Report of an actor.

    Attributes:
        host, pid: place of the child.
        code: exit code, -N after signal N, once the output is complete; None before.
        end: bytes of all output, as far as this report has it.
        output: part of the output that follows what the driver had.
    """

    host: str
    pid: int
    code: int | None
    end: int
    output: bytes


class Backlog:
    """Output on the way to the driver, of bounded size."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._kept = bytearray()
        self._first = 0

    @property
    def end(self) -> int:
        """Bytes of all output."""
        return self._first + len(self._kept)

    def add(self, output: bytes) -> None:
        """Add output; above the bound the oldest output goes."""
        self._kept += output
        self._forget(len(self._kept) - self._most)

    def read(self, heard: int) -> bytes:
        """Return the output after the first `heard` bytes, and forget these bytes."""
        self._forget(heard - self._first)
        lost = self._first - heard
        note = f"\n[{lost} bytes of output came faster than the driver took them]\n" if lost > 0 else ""
        return note.encode() + bytes(self._kept)

    def _forget(self, count: int) -> None:
        if count > 0:
            del self._kept[:count]
            self._first += count


class Host:
    """Actor with one process. Ray calls the methods on several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._backlog = Backlog()
        self._child: subprocess.Popen[bytes] | None = None
        self._code: int | None = None

    def start(self, arguments: Sequence[str], folders: Folders, threads: int) -> Report:
        """Start the process.

        Args:
            arguments: of `layerwise`.
            folders: files of the process; each folder's place follows the option.
            threads: of the process.
        """
        # A child ends with the thread that starts it: this one lives for as long as the child.
        SupervisedThread(partial(self._run, arguments, folders, threads), "process").start()
        with self._changed:
            self._changed.wait_for(lambda: self._child is not None or self._code is not None)
            return self._report(0)

    def report(self, heard: int) -> Report:
        """Wait for news, not for long, and report it.

        Args:
            heard: bytes of output that the driver has.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._code is not None or self._backlog.end > heard, REPORT_SECONDS
            )
            return self._report(heard)

    def signal(self, number: int) -> None:
        """Send the process a signal, if it runs."""
        child = self._child
        if child is not None:
            child.send_signal(number)

    def _report(self, heard: int) -> Report:
        pid = self._child.pid if self._child is not None else 0
        output = self._backlog.read(heard)
        return Report(socket.gethostname(), pid, self._code, self._backlog.end, output)

    def _run(self, arguments: Sequence[str], folders: Folders, threads: int) -> None:
        """Run the process to its end."""
        try:
            with _keep(folders) as options:
                code = self._run_child([*arguments, *options], threads)
        except OSError as error:
            self._add(f"layerwise: cannot be started: {describe(error)}\n".encode())
            code = 1
        with self._changed:
            self._code = code
            self._changed.notify_all()

    def _run_child(self, arguments: Sequence[str], threads: int) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), PARENT: str(os.getpid())}
        # Files beside a user's file are imported from the folder that is sent, and not from a job's.
        environment["PYTHONPATH"] = leave_out(os.getcwd(), os.environ.get("PYTHONPATH", ""))
        source, sink = os.pipe()
        with open(source, "rb", buffering=0):
            with open(sink, "wb"):
                child = start(arguments, environment, sink)
            with self._changed:
                self._child = child
                self._changed.notify_all()
            os.set_blocking(source, False)
            with selectors.DefaultSelector() as selector:
                selector.register(source, selectors.EVENT_READ)
                # A child's own children may hold the pipe open for longer than the child lives.
                while child.poll() is None:
                    if selector.select(_LOOK_SECONDS) and not self._take(source):
                        return child.wait()
            self._take(source)
        return child.returncode

    def _take(self, source: int) -> bool:
        """Take the bytes in the pipe; False at the end of the output."""
        with contextlib.suppress(BlockingIOError):
            output = os.read(source, _PIPE_BYTES)
            self._add(output)
            return bool(output)
        return True

    def _add(self, output: bytes) -> None:
        with self._changed:
            self._backlog.add(output)
            self._changed.notify_all()


def leave_out(folder: str, path: str) -> str:
    """Return a search path without a folder."""
    kept = [each for each in path.split(os.pathsep) if os.path.realpath(each) != os.path.realpath(folder)]
    return os.pathsep.join(kept)


@contextlib.contextmanager
def _keep(folders: Folders) -> Iterator[list[str]]:
    """Write folders for the time of the context, and yield the options that name the folders.

    Private keys are among the files: the folders go even if this process is killed.

    Raises:
        OSError: a file cannot be written.
    """
    base = tempfile.mkdtemp(prefix="layerwise-")
    end, held = os.pipe()
    try:
        # No child of this process: Ray kills an actor's children with the actor.
        subprocess.run(["/bin/sh", "-c", _DELETE, base], stdin=end, start_new_session=True, check=True)
        for option, files in folders.items():
            for name, content in files.items():
                file = Path(base, option.strip("-"), name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        yield [f"{option}={Path(base, option.strip('-'))}" for option in folders]
    finally:
        shutil.rmtree(base, ignore_errors=True)
        os.close(end)
        os.close(held)
