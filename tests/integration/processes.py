"""Real processes: the command line is run as a user runs it, and nothing of it may be left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
# Whether `torch.compile` has what it takes here.
COMPILES = bool(shutil.which("g++")) and Path(sysconfig.get_path("include"), "Python.h").exists()
# Short leases, so that what waits for one waits less; not so short that crowded cores end one.
QUICK = [
    "--set", "cluster.heartbeat_seconds=0.4", "--set", "cluster.misses=5", "--set", "run.batch_size=32",
]  # fmt: skip


class Cli:
    """Runs `layerwise` in a folder of its own and keeps an eye on every process that it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        # What a process inherits tells whose it is, whatever becomes of its parent.
        self.environment["LAYERWISE_TEST"] = str(folder)

    def start(
        self, *arguments: str, cwd: Path | None = None, inside: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start a command; `inside` is a command that starts it on a machine of its own."""
        process = subprocess.Popen(
            [*inside, sys.executable, "-P", "-m", "deploy.cli", *arguments],
            cwd=cwd or self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(
        self, *arguments: str, timeout: float = 240, cwd: Path | None = None, inside: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(*arguments, cwd=cwd, inside=inside)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str, timeout: float = 240) -> dict[str, Any]:
        """Run a command that must succeed; its standard output, which must be JSON and nothing else."""
        done = self.run(*arguments, timeout=timeout)
        assert done.returncode == 0, done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def wait_for(self, process: subprocess.Popen[str], text: str, stream: str = "stdout") -> str:
        """Read a process' output until a line has the text; that line."""
        lines = getattr(process, stream)
        for line in lines:
            if text in line:
                return str(line)
        raise AssertionError(f"{process.args!r} ended with {process.wait()} and never said {text!r}")

    def processes(self) -> list[psutil.Process]:
        """Everything that this has started and that is alive, grandchildren included."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("LAYERWISE_TEST") == str(self.folder)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def of_kind(self, kind: str) -> list[psutil.Process]:
        """The living processes of one subcommand."""
        return [p for p in self.processes() if kind in p.cmdline()[3:6]]

    def end(self) -> list[str]:
        """Kill what is left; its command lines."""
        left = self.processes()
        names = []
        for process in left:
            try:
                names.append(" ".join(process.cmdline()))
                process.kill()
            except psutil.NoSuchProcess:
                continue
        for process in self._started:
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
        return names


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for something to become true; its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {condition}")


class HandMade:
    """A master and slaves started by hand; they are interrupted at the end."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.address = ""
        self._processes: list[subprocess.Popen[str]] = []

    def master(self, *arguments: str, listen: str = "127.0.0.1:0") -> subprocess.Popen[str]:
        """Start a master and wait until it listens."""
        (self.cli.folder / "run.toml").touch()
        state = str(self.cli.folder / "state")
        process = self.cli.start("master", "run.toml", "--listen", listen, "--state-dir", state, *arguments)
        self._processes.append(process)
        line = self.cli.wait_for(process, "listening on")
        found = re.search(r"listening on (\S+),", line)
        assert found
        self.address = found[1]
        return process

    def slave(self, *arguments: str, address: str = "") -> subprocess.Popen[str]:
        """Start a slave."""
        process = self.cli.start("slave", "--master", address or self.address, *arguments)
        self._processes.append(process)
        return process

    def store(self, number: int, *arguments: str, address: str = "") -> subprocess.Popen[str]:
        """Start a store on its directory, and wait until it listens."""
        folder, master = str(self.cli.folder / f"store-{number}"), address or self.address
        process = self.cli.start("store", "--master", master, "--state-dir", folder, *arguments)
        self._processes.append(process)
        self.cli.wait_for(process, "listening on")
        return process

    def status(self) -> dict[str, Any]:
        """What the master says of the run."""
        return self.cli.json("status", "--master", self.address, "--json")

    def end(self) -> None:
        """Interrupt everything."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self._processes:
            process.wait(20)
