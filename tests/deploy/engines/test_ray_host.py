"""What an actor of Ray does, without Ray: it runs a process, keeps the output, and leaves no files behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.engines import ray_host
from deploy.engines.ray_host import Backlog, Folders, Host, Report, leave_out
from tests.integration.processes import ROOT, until

# Stands for the command line: prints the files of its folders, then waits for a signal or ends with a code.
PROGRAM = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
for option in sys.argv[2:]:
    for file in sorted(pathlib.Path(option.partition("=")[2]).rglob("*.*")):
        print(option.partition("=")[0], file.name, file.read_text(), flush=True)
if sys.argv[1] == "wait":
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


def run(arguments: list[str], environment: dict[str, str], output: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-S", "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, stdout=output, start_new_session=True, env=environment)


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Host]:
    """Start the program on a host whose folders lie in the test's own."""
    monkeypatch.setattr(ray_host, "start", run)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return lambda what, folders: _begin(what, folders)


def _begin(what: str, folders: Folders) -> Host:
    host = Host()
    assert host.start([what], folders, 1).pid
    return host


def hear_out(host: Host) -> tuple[bytes, int]:
    """Return all output of a host's process, and its code."""
    heard, output = 0, b""
    while True:
        report: Report = host.report(heard)
        heard, output = report.end, output + report.output
        if report.code is not None:
            return output, report.code


def test_a_process_gets_its_files_and_its_output_and_code_come_back(
    begin: Callable[..., Host], tmp_path: Path
) -> None:
    folders = {"--tls": {"key.pem": b"secret"}, "--code": {"net.py": b"unit", "inner/more.py": b"loss"}}
    output, code = hear_out(begin("4", folders))
    lines = output.decode().splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["--tls", "key.pem", "secret"],
        ["--code", "more.py", "loss"],
        ["--code", "net.py", "unit"],
    ]
    assert code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_signal_reaches_the_process(begin: Callable[..., Host], tmp_path: Path) -> None:
    host = begin("wait", {"--tls": {"key.pem": b"secret"}})
    until(lambda: host.report(0).output, 20)
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    host.signal(signal.SIGTERM)
    assert hear_out(host)[1] == 130
    host.signal(signal.SIGTERM)  # nobody is there


ACTOR = """
import os, signal, subprocess, sys, tempfile
from deploy.engines import ray_host
tempfile.tempdir = sys.argv[1]
ray_host.start = lambda arguments, environment, output: subprocess.Popen(
    [sys.executable, "-S", "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=output
)
host = ray_host.Host()
print(host.start([], {"--tls": {"key.pem": b"secret"}}, 1).pid, os.listdir(sys.argv[1]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_private_keys_go_with_an_actor_that_is_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", ACTOR, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "layerwise-" in done.stdout, done.stderr
    os.kill(int(done.stdout.split()[0]), signal.SIGKILL)
    until(lambda: list(tmp_path.iterdir()) == [], 20)


def test_the_working_folder_of_a_job_is_no_place_for_imports(tmp_path: Path) -> None:
    assert leave_out(str(tmp_path), f"/a:{tmp_path}/:/b") == "/a:/b"
    assert leave_out(str(tmp_path), str(tmp_path)) == ""


def test_a_backlog_gives_again_what_was_not_heard_and_forgets_the_rest() -> None:
    backlog = Backlog(most=8)
    backlog.add(b"abcd")
    assert backlog.read(0) == backlog.read(0) == b"abcd"
    assert backlog.read(3) == b"d"
    backlog.add(b"efg")
    assert backlog.read(4) == b"efg"
    backlog.add(b"0123456789")
    assert backlog.end == 17
    assert backlog.read(7) == b"\n[2 bytes of output came faster than the driver took them]\n23456789"
    assert backlog.read(17) == b""
