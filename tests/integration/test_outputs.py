"""Logs and screens are told, never asked: closed, stuck or full outputs, and hostile text, end no run."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.net import control
from common.net.tokens import find_joiner
from common.wire import methods
from common.wire.messages import JoinRequest
from tests.integration.processes import QUICK, Cli, HandMade
from tests.master.served import key_of

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

# A short run in one process: what is tried here is its output.
SHORT = [
    "--set", "cluster.profile=synchronous", "--set", "run.batches=40", "--set", "run.evaluate_every=10",
    "--set", "network.options.widths=[8]",
]  # fmt: skip
TRAIN = ["train", *SHORT, "--run-dir", "run"]
HOSTILE = "[/x]\x1b]0;owned\x07\x1b[2J\u202e"
SHOWN = "[/x]\\x1b]0;owned\\x07\\x1b[2J\\u202e"


def start(cli: Cli, arguments: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a command with streams of the test's own."""
    process: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *arguments],
        cwd=cli.folder,
        env=cli.environment,
        stdin=subprocess.DEVNULL,
        **streams,
    )
    return process


def closed_pipe() -> int:
    """Writing end of a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def assert_finished(run: Path) -> None:
    """The run directory holds the results of a whole run."""
    assert json.loads((run / "summary.json").read_text())["batches"] == 40
    assert {"config.toml", "metrics.jsonl", "model.safetensors", "plots"} <= {p.name for p in run.iterdir()}


def test_a_reader_of_standard_output_that_has_gone_changes_no_exit_code(cli: Cli) -> None:
    output = closed_pipe()
    process = start(cli, TRAIN, stdout=output, stderr=subprocess.PIPE)
    os.close(output)
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, errors
    assert "Broken pipe" not in errors
    assert "Traceback" not in errors
    assert_finished(cli.folder / "run")


def test_a_reader_of_both_outputs_that_has_gone_changes_no_exit_code(cli: Cli) -> None:
    output = closed_pipe()
    process = start(cli, TRAIN, stdout=output, stderr=output)
    os.close(output)
    assert process.wait(120) == 0
    assert_finished(cli.folder / "run")


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_a_watch_ends_once_its_reader_has_gone(cli: Cli, by_hand: HandMade, form: list[str]) -> None:
    """The run of this master never ends."""
    by_hand.master(*QUICK)
    output = closed_pipe()
    watch = ["status", "--master", by_hand.address, "--watch", *form]
    process = start(cli, watch, stdout=output, stderr=subprocess.PIPE)
    os.close(output)
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 0, errors


def test_a_command_without_a_handler_of_its_own_is_interrupted_by_sigterm(
    cli: Cli, by_hand: HandMade
) -> None:
    by_hand.master(*QUICK)
    watching = cli.start("status", "--master", by_hand.address, "--watch", "--json")
    cli.wait_for(watching, "problems")
    watching.terminate()
    assert watching.wait(30) == 130


def test_outputs_that_were_closed_before_the_start_change_no_exit_code(cli: Cli) -> None:
    command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-m", "deploy.cli", *TRAIN]
    process = subprocess.Popen(command, cwd=cli.folder, env=cli.environment)
    assert process.wait(120) == 0
    assert_finished(cli.folder / "run")


def test_a_reader_that_takes_nothing_holds_up_no_run(cli: Cli) -> None:
    reading, writing = os.pipe()
    filled = 0
    os.set_blocking(writing, False)
    while True:
        try:
            filled += os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    process = start(cli, TRAIN, stdout=subprocess.DEVNULL, stderr=writing)
    try:
        assert process.wait(120) == 0
        assert_finished(cli.folder / "run")
    finally:
        process.kill()
        os.close(writing)
        os.close(reading)
    assert filled > 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
@pytest.mark.parametrize("arguments", [[*TRAIN, "--json"], ["config"]])
def test_a_result_that_does_not_fit_on_a_full_disk_is_reported(cli: Cli, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = start(cli, arguments, stdout=full, stderr=subprocess.PIPE)
        errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 3, errors
    assert errors.splitlines()[-1].startswith("layerwise: standard output: No space left on device;")
    assert "Traceback" not in errors
    if arguments[0] == "train":
        assert_finished(cli.folder / "run")


def test_a_terminal_that_closes_during_a_run_does_not_end_it(cli: Cli) -> None:
    master, slave = pty.openpty()
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-m", "deploy.cli", *TRAIN]
    command += ["--set", "run.name=[bold]", "--set", "run.batches=4000"]
    process = subprocess.Popen(
        command,
        cwd=cli.folder,
        env={**cli.environment, "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    while b"test error" not in shown:
        shown += os.read(master, 4096)
    os.close(master)
    assert process.wait(200) == 0
    assert json.loads((cli.folder / "run" / "summary.json").read_text())["batches"] == 4000


@pytest.mark.parametrize("name", ["exp[lr=0.1]/run", "[/x]", "$a_$b"])
def test_a_path_with_markup_is_shown_as_it_is(cli: Cli, name: str) -> None:
    done = cli.run("train", *SHORT, "--set", "run.name=[lr=0.1]$_$", "--run-dir", name)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{name}: training 2 layers")
    assert done.stdout.splitlines()[-1] == f"results in {name}"
    assert "[lr=0.1]$_$: digits" in done.stdout
    assert_finished(cli.folder / name)


def test_a_path_with_control_characters_and_bytes_that_are_no_text_is_escaped(cli: Cli) -> None:
    name = b"a\x1b[31m\xff"
    process = start(cli, ["train", *SHORT, "--run-dir", os.fsdecode(name)], stdout=-1, stderr=-1)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert out.decode().splitlines()[-1] == "results in a\\x1b[31m\\udcff"
    assert b"\x1b" not in errors
    refused = start(cli, ["evaluate", os.fsdecode(name) + "\x07"], stdout=-1, stderr=-1)
    _, errors = refused.communicate(timeout=120)
    assert refused.returncode == 2
    assert errors.startswith(b"layerwise: a\\x1b[31m\\udcff\\x07/model.safetensors: is missing")


def test_an_argument_with_escapes_is_escaped_in_the_refusal(cli: Cli) -> None:
    for arguments in (["\x1b[31mtrain"], ["train", "--set", "run.\x1b[31m=3"], ["status", "--\x1b[31m"]):
        done = cli.run(*arguments)
        assert done.returncode == 2
        assert "\x1b" not in done.stderr
        assert "\\x1b[31m" in done.stderr


def test_a_hostile_slave_is_shown_escaped_wherever_it_is_shown(cli: Cli, by_hand: HandMade) -> None:
    process = by_hand.master("--set", "cluster.misses=1000")
    with control.channel(by_hand.address) as channel:
        join = JoinRequest(HOSTILE, host=HOSTILE, pid=7, device=HOSTILE, key=key_of("a"))
        assert control.call(channel, methods.JOIN, join, shown=find_joiner(by_hand.address)).granted
    shown = cli.run("status", "--master", by_hand.address)
    assert shown.returncode == 0, shown.stderr
    assert SHOWN.split("\\")[0] in shown.stdout
    assert re.sub(r"\n", "", shown.stdout).isprintable()
    described = by_hand.status()["seats"][0]
    assert (described["host"], described["device"]) == (HOSTILE, HOSTILE)
    process.terminate()
    assert process.stderr is not None
    log = process.stderr.read()
    assert SHOWN in log
    assert all(line.isprintable() for line in log.splitlines())


def test_a_log_that_cannot_be_written_ends_no_process(cli: Cli, by_hand: HandMade) -> None:
    process = by_hand.master()
    assert process.stderr is not None
    process.stderr.close()
    for number in range(3):
        with control.channel(by_hand.address) as channel:
            name = f"slave-{number}"
            assert control.call(
                channel, methods.JOIN, JoinRequest(name, key=key_of(name)), shown=find_joiner(by_hand.address)
            ).granted
    assert len(by_hand.status()["seats"]) == 3
    assert process.poll() is None
    events = (cli.folder / "state" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in events].count("joined") == 3
