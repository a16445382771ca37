"""A walk through a page: every block is run in the page's order, on machines that are folders of this one."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import cli as command_line
from tests.docs.blocks import ROOT, Block, Command
from tests.integration.processes import Cli

# The port of the pages' masters.
PORT = ":50051"
# Commands that take --set.
CONFIGURED = ("train", "simulate", "compare", "master")
# Where the prompt names no machine, the first one is meant.
HERE = "one"
_SCP = """#!/bin/sh
# Copies HOST:PATH from the folder of that machine.
[ "$1" = -r ] && shift
exec cp -r "{machines}/${{1%%:*}}/${{1#*:}}" "$2"
"""


class Walk:
    """Runs blocks: what has a machine in its prompt by a shell, the other commands of ours in this process.

    Args:
        cli: sees to the processes.
        monkeypatch: for folder and environment.
        capture: of the output.
    """

    def __init__(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self._cli, self._patch, self._capture = cli, monkeypatch, capture
        self._machines = cli.folder / "machines"
        self._slaves: list[subprocess.Popen[str]] = []
        self._masters: list[subprocess.Popen[str]] = []
        programs = cli.folder / "programs"
        programs.mkdir()
        program = f'#!/bin/sh\nexec {sys.executable} -P -m deploy.cli "$@"\n'
        self._write_program(programs / "layerwise", program)
        self._write_program(programs / "scp", _SCP.format(machines=self._machines))
        cli.environment |= {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "BROWSER": "true",
            "MPLBACKEND": "Agg",
            "PYTHONPATH": str(ROOT),
        }
        for name, value in cli.environment.items():
            self._patch.setenv(name, value)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        for name in ("docs", "examples"):
            (self._folder(HERE) / name).symlink_to(ROOT / name)

    def run(self, blocks: list[Block]) -> None:
        """Run the blocks; Python at the end, as one script."""
        # A page shows a file's content behind the command that reads it.
        for block in blocks:
            if "file" in block.orders and block.language == "toml":
                self._write_file(block)
        script = ""
        for block in blocks:
            if "skip" in block.orders:
                continue
            if "file" in block.orders:
                self._write_file(block)
            elif block.language == "python":
                script += self._python(block) + "\n"
            elif block.language == "console":
                if "after" in block.orders:
                    self._await_slaves()
                for command in block.commands():
                    self._run_command(block, command)
        if script:
            (self._folder(HERE) / "script.py").write_text(script)
            self._check(f"{sys.executable} script.py", self._folder(HERE))
        self._await_slaves()
        self.end()

    def end(self) -> None:
        """Interrupt the masters."""
        for process in (*self._slaves, *self._masters):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(20)

    def _run_command(self, block: Block, command: Command) -> None:
        text, words = command.text, command.words
        text = text.replace(f"one{PORT}", f"127.0.0.1{PORT}").replace(PORT, f":{self._port}")
        name = words[1] if words[0] == "layerwise" else ""
        if name in CONFIGURED:
            text += "".join(f" --set '{each}'" for each in block.overrides)
        if name == "master" and "--listen" not in words:
            text += f" --listen 127.0.0.1:{self._port}"
        folder = self._folder(command.place or HERE)
        if name in ("master", "slave"):
            process = self._start(f"exec {text}", folder)
            (self._masters if name == "master" else self._slaves).append(process)
            if name == "master":
                self._await_port(process)
        elif name and not command.place and "apart" not in block.orders:
            self._run_here(text, folder)
        else:
            self._check(text, folder)

    def _run_here(self, text: str, folder: Path) -> None:
        """Run a command of ours in this process, which imports torch once."""
        self._patch.chdir(folder)
        words = shlex.split(text, comments=True)
        while "=" in words[0]:
            self._patch.setenv(*words.pop(0).split("=", 1))
        output = words[words.index(">") + 1] if ">" in words else None
        words = words[: words.index(">")] if output else words
        self._capture.readouterr()
        code = command_line.run(words[1:])
        said = self._capture.readouterr()
        assert code == 0, (text, said.out[-2000:], said.err[-2000:])
        if output:
            (folder / output).write_text(said.out)

    def _start(self, text: str, folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", text],
            cwd=folder,
            env=self._cli.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _check(self, text: str, folder: Path) -> None:
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=folder,
            env=self._cli.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, (text, done.stdout[-2000:], done.stderr[-2000:])

    def _await_port(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert process.poll() is None, "the master has ended"
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the master does not listen")

    def _await_slaves(self) -> None:
        for slave in self._slaves:
            assert slave.wait(120) == 0

    def _python(self, block: Block) -> str:
        text = block.content
        for override in block.overrides:
            key, _, value = override.partition("=")
            text = re.sub(rf'"{re.escape(key)}": \w+', f'"{key}": {value}', text)
        return text

    def _write_file(self, block: Block) -> None:
        path = self._folder(HERE) / block.orders["file"]
        path.write_text(re.sub(r"\A%%writefile .*\n", "", block.content))

    def _folder(self, machine: str) -> Path:
        folder = self._machines / machine
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @staticmethod
    def _write_program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)
