"""Files and folders that are torn, changed, forbidden, too long, full or in use: one line, and a code."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.runs.directory import RunDirectory
from tests.deploy.finished import write_run
from tests.integration.processes import QUICK, Cli, until

# Real processes, for seconds each.
pytestmark = pytest.mark.slow

SHORT = [
    "--set", "cluster.profile=synchronous", "--set", "run.batches=40", "--set", "network.options.widths=[8]",
]  # fmt: skip
SMALL = [*QUICK, "--set", "network.options.widths=[8, 8]", "--set", "run.evaluate_every=50"]
# Root passes over permissions, unless a process gives up that right before it becomes the command.
WITHOUT_OVERRIDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if os.getuid() == 0 and libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
        sys.exit(99)
os.execv(sys.executable, [sys.executable, "-m", "deploy.cli", *sys.argv[1:]])
"""


def refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """Check that a command ended with the code, one line that has the parts, and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def test_torn_address_files_of_an_earlier_run_do_no_harm(cli: Cli) -> None:
    state = cli.folder / "run" / "state"
    state.mkdir(parents=True)
    for name in ("address", "web"):
        (state / name).write_bytes(b"\xff12")
    done = cli.run("train", *SMALL, "--set", "run.batches=60", "--run-dir", "run")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", *SHORT, "--run-dir", "closed/run"],
        ["train", *SHORT, "--run-dir", "closed"],
        ["train", "--set", "data.path=closed/data"],
        ["evaluate", "closed"],
        ["export", "run", "--output", "closed/out.pt"],
        ["compare", "plain.toml", "--over", "run.seed=1,2", "--out", "closed/out"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_folder_without_rights_is_refused(cli: Cli, arguments: list[str]) -> None:
    (cli.folder / "plain.toml").write_text("[run]\nbatches = 20\n")
    write_run(cli.folder / "run")
    closed = cli.folder / "closed"
    closed.mkdir(mode=0)
    try:
        command = [sys.executable, "-c", WITHOUT_OVERRIDE, *arguments]
        done = subprocess.run(command, cwd=cli.folder, env=cli.environment, capture_output=True, text=True)
    finally:
        closed.chmod(0o700)
    if done.returncode == 99:
        pytest.skip("root cannot give up its right to pass over permissions here")
    refused(done, 2, "closed", "Permission denied; ")


# --- a full disk ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Folder on a file system of its own, of 64 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=64m"):
        pytest.skip("only root can mount a small disk")
    yield folder
    assert libc.umount2(os.fsencode(folder), 2) == 0  # MNT_DETACH


def fill(folder: Path) -> Path:
    """Fill the disk to the last byte, and return the file that does."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    if file.write(b"\0" * size) < size:
                        break
            except OSError:
                continue
    return path


def test_a_run_goes_on_while_the_disk_is_full_and_has_all_its_lines_at_the_end(
    cli: Cli, small_disk: Path
) -> None:
    run = small_disk / "run"
    process = cli.start("train", *SMALL, "--set", "run.batches=4000", "--run-dir", str(run))
    cli.wait_for(process, "test error", "stderr")
    filler = fill(small_disk)
    line = cli.wait_for(process, "No space left on device", "stderr")
    assert (
        line
        == f"{run}/metrics.jsonl: No space left on device; the run goes on, and the lines are tried again\n"
    )
    cli.wait_for(process, "test error", "stderr")
    filler.unlink()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "No space left" not in errors
    lines = [json.loads(each) for each in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [each["batches"] for each in lines if each["kind"] == "evaluation"]
    assert evaluations == sorted(evaluations)
    assert evaluations[-1] == 4000
    assert (run / "summary.json").exists()


def test_a_run_that_ends_on_a_full_disk_names_what_is_missing_and_writes_it_when_asked_again(
    cli: Cli, small_disk: Path
) -> None:
    run = small_disk / "run"
    wide = ("--set", "run.batches=400", "--set", "network.options.widths=[512, 512]")
    process = cli.start("train", *SMALL, *wide, "--run-dir", str(run), "--json")
    cli.wait_for(process, "test error", "stderr")
    # Leave room for leases, without which no run ends, and none for the model of 1.2 MB.
    filler = fill(small_disk)
    os.truncate(filler, filler.stat().st_size - (512 << 10))
    out, errors = process.communicate(timeout=200)
    last = errors.splitlines()[-1]
    assert process.returncode == 4, errors
    assert last.startswith(f"layerwise: {run}: the run is trained, but could not write ")
    assert "model.safetensors (No space left on device)" in last
    assert "Traceback" not in errors
    assert json.loads(out)["batches"] == 400
    assert not (run / "summary.json").exists()
    filler.unlink()
    again = cli.json("train", "--run-dir", str(run), "--json")
    assert again["test_error_percent"] == json.loads(out)["test_error_percent"]
    assert {"summary.json", "model.safetensors", "plots"} <= {path.name for path in run.iterdir()}


def test_a_run_that_cannot_begin_on_a_full_disk_says_so(cli: Cli, small_disk: Path) -> None:
    fill(small_disk)
    done = cli.run("train", *SHORT, "--run-dir", str(small_disk / "run"))
    refused(done, 3, f"{small_disk}/run/", "No space left on device; free disk space")


def test_an_export_to_a_full_disk_leaves_nothing(cli: Cli, small_disk: Path) -> None:
    write_run(cli.folder / "run")
    filler = fill(small_disk)
    for name in ("out.pt", "out.safetensors"):
        output = small_disk / name
        refused(cli.run("export", "run", "--output", str(output)), 3, f"{output}: No space left on device")
    assert list(small_disk.iterdir()) == [filler]


# --- in use -----------------------------------------------------------------------------------------------


def test_a_second_command_on_a_live_run_directory_is_refused_and_changes_nothing(cli: Cli) -> None:
    process = cli.start("train", *SMALL, "--set", "run.batches=1000000", "--run-dir", "run")
    cli.wait_for(process, "test error", "stderr")
    run = cli.folder / "run"
    address = (run / "state" / "address").read_text()
    for arguments in (
        ["train", "--run-dir", "run"],
        ["train", *SHORT, "--run-dir", "run"],
        ["simulate", "--train", "--run-dir", "run"],
        ["evaluate", "--master", address, "--watch", "run"],
    ):
        refused(cli.run(*arguments), 3, "--run-dir run: another command is writing there")
    assert (run / "state" / "address").read_text() == address
    assert cli.json("status", "--master", address, "--json")["state"] == "training"
    process.kill()
    until(lambda: not cli.processes(), 20)
    RunDirectory(run).close()


def test_a_second_comparison_in_a_folder_is_refused(cli: Cli) -> None:
    (cli.folder / "plain.toml").write_text("[run]\nbatches = 1000000\n")
    compare = ["compare", "plain.toml", "--over", "run.seed=1", "--in", "synchronous", "--out", "out"]
    process = cli.start(*compare)
    until(lambda: list((cli.folder / "out").rglob("metrics.jsonl")) or cli.of_kind("train"))
    refused(cli.run(*compare), 3, "--out out: another command is writing there")
    process.terminate()
    assert process.wait(60) == 130


def test_a_torn_line_of_metrics_is_cut_off_by_a_resumed_run(cli: Cli) -> None:
    process = cli.start("train", *SMALL, "--set", "run.batches=600", "--run-dir", "run")
    cli.wait_for(process, "test error", "stderr")
    process.kill()
    until(lambda: not cli.processes(), 20)
    metrics = cli.folder / "run" / "metrics.jsonl"
    with metrics.open("ab") as file:
        file.write(b'{"kind": "evaluation", "versions": {"1/weights": 3}')
    done = cli.run("train", "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    assert "metrics.jsonl: its last line was torn; 51 bytes are cut off" in done.stderr
    assert all(json.loads(line)["kind"] for line in metrics.read_text().splitlines())
