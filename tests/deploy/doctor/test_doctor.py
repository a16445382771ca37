"""`layerwise doctor` finds what is broken, one set-up at a time, and changes nothing."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.config.files import load
from common.data import datasets, idx
from common.data.holdings import take_stock
from common.net import control
from common.versions import installed_versions
from common.wire import methods
from common.wire.messages import Holdings, JoinRequest
from deploy.doctor.checks import CHECKS, Check
from deploy.doctor.computing import _without_device
from deploy.doctor.findings import Finding, ok
from deploy.doctor.report import exit_code, print_findings
from deploy.doctor.runner import examine
from deploy.doctor.setup import Setup, ask_setup, read_setup
from tests.deploy.doctor.masters import FakeMaster, fake_master
from tests.master.served import key_of, served

# A console script's folder is its own, so that files beside the user are no modules.
LAYERWISE = Path(sys.executable).with_name("layerwise")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this to a machine")


def finding(setup: Setup, name: str) -> Finding:
    """The one finding of a check, which must apply."""
    (found,) = examine(setup, [CHECKS[name]])
    assert (found.fix == "") == (found.state == "ok")
    return found


def local(*overrides: str) -> Setup:
    return read_setup(None, overrides, None, None)


def doctor(*arguments: str, cwd: Path, before: str = "true", code: int) -> dict[str, dict[str, str]]:
    """Run the command in a folder, after a command of the shell; its findings by name."""
    command = ["sh", "-c", f'{before} && exec "$0" "$@"', str(LAYERWISE), "doctor", *arguments, "--json"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return {found["name"]: found for found in json.loads(done.stdout)}


# --- whole commands ---------------------------------------------------------------------------------------


def test_a_whole_machine_has_nothing_failed_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = doctor(cwd=tmp_path, code=0)
    assert list(found) == [name for name in CHECKS if name in found]
    assert {
        "python",
        "packages",
        "torch",
        "cuda",
        "cores",
        "files",
        "disk",
        "data",
        "network",
    } <= found.keys()
    assert all(each["state"] in ("ok", "warning") for each in found.values())
    assert found["data"]["found"].startswith("1,437 and 360 examples of (1, 8, 8) in 10 classes, digest ")
    assert list(tmp_path.iterdir()) == []


def test_few_open_files_are_found_by_a_doctor_that_has_no_more_of_them(tmp_path: Path) -> None:
    found = doctor(cwd=tmp_path, before="ulimit -n 64", code=2)
    assert found["files"]["state"] == "failed"
    assert "at most 64 open files" in found["files"]["found"]
    assert "LimitNOFILE" in found["files"]["fix"]
    assert [name for name, each in found.items() if each["state"] == "failed"] == ["files"]


PRINTS = """
print("a line of the user's")
import os
os.write(1, b"another one")
from torch import nn
def build():
    return [nn.Flatten(), nn.Linear(64, 10)]
"""


def test_user_code_may_print_and_files_beside_it_may_be_named_as_modules(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PRINTS)
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong module')")
    found = doctor("--set", "network.model=mine.py:build", cwd=tmp_path, code=0)
    assert found["user files"]["state"] == found["network"]["state"] == "ok"
    assert found["names"]["state"] == "warning"
    assert str(tmp_path / "random.py") in found["names"]["found"]


def test_a_master_that_is_not_there_is_3_and_a_bad_configuration_2(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{closed.getsockname()[1]}"
        found = doctor("--master", master, cwd=tmp_path, code=3)
    assert found["master"]["state"] == "failed"
    assert master in found["master"]["found"]
    assert "configuration" not in found
    found = doctor("--set", "run.batchs=3", cwd=tmp_path, code=2)
    assert "unknown key" in found["configuration"]["found"]


def test_help_needs_no_torch_and_a_master_has_the_configuration(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom deploy.cli import run\n"
        "assert run(['doctor', '--help']) == 0\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    command = [str(LAYERWISE), "doctor", "--master", "127.0.0.1:1", "--set", "run.batches=3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "omit CONFIG and --set" in done.stderr


def test_named_tensors_of_the_data_are_listed(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def own():\n"
        "    x = {'x': np.eye(4), 'mask': np.eye(4) > 0}\n"
        "    return x, np.arange(4) % 2, x, np.arange(4) % 2\n"
    )
    own = f"{tmp_path}/own.py"
    found = finding(
        local(f"data.dataset={own}:own", f"network.model={own}:build", "run.batch_size=2"), "data"
    )
    assert found.found.startswith("4 and 4 examples of {x: (B, 4), mask: bool (B, 4)} in 2 classes, digest ")


# --- the machine ------------------------------------------------------------------------------------------


@AS_ROOT
def test_a_tiny_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        monkeypatch.chdir(tmp_path)
        found = finding(local(), "disk")
        monkeypatch.undo()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert found.state == "failed"
    assert found.found.startswith("1 MiB free")
    assert "free space" in found.fix


def test_a_folder_that_has_gone_is_a_finding_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = finding(Setup(None), "disk")
    assert found.state == "failed"
    assert "FileNotFoundError" in found.found


@pytest.mark.parametrize(
    ("line", "file", "text"),
    [
        ("0::/a", "a/cpu.max", "50000 100000"),
        ("4:cpu:/", "cpu/cpu.cfs_quota_us", "50000"),
    ],
    ids=["second", "first"],
)
def test_a_quota_below_one_core_is_found(line: str, file: str, text: str, tmp_path: Path) -> None:
    quota = tmp_path / "sys/fs/cgroup" / file
    quota.parent.mkdir(parents=True)
    quota.write_text(text)
    quota.with_name("cpu.cfs_period_us").write_text("100000")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(line + "\n")
    found = finding(Setup(None, root=tmp_path), "cores")
    assert found.state == "warning"
    assert "0.5 cores" in found.found


def test_more_threads_than_cores_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    assert finding(Setup(None), "cores").fix.startswith("unset OMP_NUM_THREADS")


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a build for CUDA")
def test_a_driver_beside_a_build_of_torch_without_cuda_is_found(tmp_path: Path) -> None:
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: 535\n")
    found = finding(Setup(None, root=tmp_path), "cuda")
    assert found.state == "warning"
    assert "CUDA build" in found.fix


@pytest.mark.parametrize(("driver", "state"), [(True, "failed"), (False, "ok")])
def test_a_driver_that_does_not_serve_torch_s_build_is_found(driver: bool, state: str) -> None:
    found = _without_device("12.6", driver, ["The NVIDIA driver on your system\nis too old"])
    assert found.state == state
    assert ("driver on your system is too old" in found.found) == driver


WITHOUT_IPV6 = """
from deploy.doctor.network import examine_families
from deploy.doctor.setup import Setup
found = examine_families(Setup(None))
print(found.state, found.found)
"""


@AS_ROOT
def test_ipv6_that_is_off_is_found() -> None:
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    inside = 'ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && exec "$0" -c "$1"'
    command = ["unshare", "--net", "sh", "-c", inside, sys.executable, WITHOUT_IPV6]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unshare failed" in done.stderr or "Read-only" in done.stderr:
        pytest.skip(f"no network namespace of its own here: {done.stderr.strip()}")
    assert done.stdout.strip() == "warning IPv4 alone; IPv6 is off", done.stderr


def test_a_package_that_is_too_old_or_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"click": "999.0", "no-such-package": "1.0", "numpy": "1.0"}
    monkeypatch.setattr("deploy.doctor.machine.lowest_versions", lambda: needed)
    found = finding(Setup(None), "packages")
    assert found.state == "failed"
    assert "(needs 999.0)" in found.found
    assert "no-such-package is missing" in found.found
    assert "numpy" not in found.found


# --- a master ---------------------------------------------------------------------------------------------


@pytest.fixture
def master() -> FakeMaster:
    return FakeMaster(load(None, ["cluster.profile=basic", "network.cuts=[1, 2]"]))


def asked(master: FakeMaster, name: str) -> Finding:
    with fake_master(master) as address:
        return finding(ask_setup(address, None, None), name)


def test_a_sound_master_is_found_sound_from_both_sides(tmp_path: Path) -> None:
    with served(tmp_path, "cluster.profile=basic") as running:
        setup = ask_setup(running.address, None, None)
        names = ["master", "clock", "versions", "data port", "way back", "configuration"]
        found = examine(setup, [CHECKS[name] for name in names])
    assert [(each.name, each.state) for each in found] == [(name, "ok") for name in names]
    assert exit_code(setup, found) == 0


def test_a_closed_data_port_is_found(master: FakeMaster) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        master.bulk_port = closed.getsockname()[1]
        found = asked(master, "data port")
    assert found.state == "failed"
    assert f"127.0.0.1:{master.bulk_port} cannot be reached: Connection refused" in found.found
    assert "--bulk-port" in found.fix


def test_a_way_back_that_is_closed_is_found(master: FakeMaster) -> None:
    assert asked(master, "way back").state == "ok"
    master.walled = True
    found = asked(master, "way back")
    assert found.state == "failed"
    assert "--advertise" in found.fix


def test_profile_light_needs_no_way_back(master: FakeMaster) -> None:
    master.config = load(None, ["network.cuts=[1, 2]"])
    with fake_master(master) as address:
        assert examine(ask_setup(address, None, None), [CHECKS["way back"]]) == []


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
def test_a_wrong_clock_is_found(ahead: float, master: FakeMaster) -> None:
    master.ahead = ahead
    found = asked(master, "clock")
    assert found.state == "warning"
    side = "behind" if ahead > 0 else "ahead of"
    assert found.found.startswith(f"{side} the master's clock by 3.6e+03 s")
    assert "NTP" in found.fix
    master.ahead = 0.0
    assert asked(master, "clock").state == "ok"


@pytest.mark.parametrize(
    ("name", "version", "state"),
    [
        ("layerwise", "99.0.0", "failed"),
        ("torch", "1.0.0", "failed"),
        ("python", "3.99.1", "warning"),
        ("layerwise", "0.1.99", "warning"),
    ],
)
def test_a_master_of_another_version_is_found(
    name: str, version: str, state: str, master: FakeMaster
) -> None:
    master.versions = {**master.versions, name: version}
    found = asked(master, "versions")
    assert found.state == state
    assert f"(master: {version})" in found.found


def test_data_with_another_digest_than_the_run_s_are_found(tmp_path: Path) -> None:
    with served(tmp_path / "state") as running:
        own = Holdings({"train_x": "uint8 (1437, 1, 8, 8) with digest 0"}, {}, installed_versions())
        control.call(
            running.channel,
            methods.JOIN,
            JoinRequest("a", "first", holdings=own, key=key_of("a")),
            shown=running.joiner,
        )
        found = finding(ask_setup(running.address, None, None), "agreement")
    assert found.state == "failed"
    assert "the data differ: train_x is" in found.found
    assert "on first" in found.found


def test_equal_data_agree(tmp_path: Path) -> None:
    config = load(None, ["network.cuts=[1, 2]"])
    with served(tmp_path / "state") as running:
        own = take_stock(config, datasets.load(config.data))
        control.call(
            running.channel,
            methods.JOIN,
            JoinRequest("a", "first", holdings=own, key=key_of("a")),
            shown=running.joiner,
        )
        assert finding(ask_setup(running.address, None, None), "agreement").state == "ok"


# --- what the user brings ---------------------------------------------------------------------------------


def test_a_data_path_that_is_missing_is_found() -> None:
    found = finding(local("data.path=nowhere"), "data")
    assert found.state == "failed"
    assert "nowhere is not a folder" in found.found


def test_a_file_of_the_data_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    for file in idx.FILES:
        # The beginning of a packed file, as a broken copy leaves it.
        (tmp_path / f"{file}.gz").write_bytes(gzip.compress(bytes(1000))[:20])
    found = finding(local("data.dataset=mnist", f"data.path={tmp_path}"), "data")
    assert found.state == "failed"
    assert str(tmp_path) in found.found


def test_data_that_would_be_downloaded_are_a_warning_and_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = finding(local("data.dataset=mnist"), "data")
    assert found.state == "warning"
    assert "mnist is not on this machine yet" in found.found
    assert list(tmp_path.iterdir()) == []


def test_a_user_file_with_a_syntax_error_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build(:\n    return 3\n")
    found = finding(local(f"network.model={tmp_path}/mine.py:build"), "user files")
    assert found.state == "failed"
    assert "SyntaxError" in found.found
    assert "mine.py" in found.found


def test_a_user_file_that_kills_its_process_or_never_ends_is_found(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    found = finding(local(f"network.model={tmp_path}/killed.py:build"), "user files")
    assert found.state == "failed"
    assert "was killed by SIGKILL" in found.found
    (tmp_path / "endless.py").write_text("import time\nwhile True: time.sleep(60)\n")
    hasty = dataclasses.replace(CHECKS["user files"], seconds=3.0)
    (found,) = examine(local(f"network.model={tmp_path}/endless.py:build"), [hasty])
    assert found.state == "failed"
    assert "no result within 3 s" in found.found


MISFIT = """
from torch import nn
def build():
    return [nn.Flatten(), nn.Linear(64, 32), nn.Linear(33, 10)]
"""


def test_a_network_whose_units_do_not_fit_is_found(tmp_path: Path) -> None:
    (tmp_path / "misfit.py").write_text(MISFIT)
    found = finding(local(f"network.model={tmp_path}/misfit.py:build"), "network")
    assert found.state == "failed"
    assert "cannot take (B, 32)" in found.found


WITHOUT_GRADIENT = """
import torch
from torch import nn
class Frozen(nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)
def build():
    return [nn.Flatten(), Frozen(64, 32), nn.Linear(32, 10)]
"""


def test_a_unit_without_a_gradient_is_found_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "frozen.py").write_text(WITHOUT_GRADIENT)
    found = finding(local(f"network.model={tmp_path}/frozen.py:build"), "network")
    assert found.state == "failed"
    assert "unit 2" in found.found


# --- the doctor itself ------------------------------------------------------------------------------------


def test_a_check_that_fails_itself_is_a_finding() -> None:
    def broken(setup: Setup) -> Finding:
        raise ZeroDivisionError("of the\ncheck")

    (found,) = examine(Setup(None), [Check(name="broken", help="all", examine=broken)])
    assert (found.name, found.state) == ("broken", "failed")
    assert found.found == "the check itself failed: ZeroDivisionError: of the check"


def test_a_check_that_hangs_is_a_finding_and_delays_no_other() -> None:
    def hang(setup: Setup) -> Finding:
        time.sleep(600)
        raise AssertionError

    checks = [
        Check(name="hangs", help="all", examine=hang, seconds=0.2),
        Check(name="fine", help="all", examine=lambda setup: ok("fine")),
    ]
    hangs, fine = examine(Setup(None), checks)
    assert (hangs.state, hangs.found) == ("failed", "no result within 0.2 s")
    assert fine.state == "ok"


def test_text_of_a_stranger_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    found = Finding(ok("").state, "[red]\x1b[2J\u202e[/x]", name="master")
    print_findings([found], as_json=False)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[red]" in out
    print_findings([found], as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {"name": "master", "state": "ok", "found": "[red]\x1b[2J\u202e[/x]", "fix": ""}
    ]
