"""common.observe.utilization: this very process and its machine, with and without a GPU's library."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from common.observe.utilization import Probe
from common.wire.use import Utilization


def test_a_process_and_its_machine_are_measured_over_the_time_since_the_last_call(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    probe()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    busy = probe()
    time.sleep(0.3)
    idle = probe()
    assert busy.cpu_percent > 2 * idle.cpu_percent
    assert busy.host_cpu_percent > 0
    assert busy.rss_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert 0 < busy.memory_percent < 100
    assert 0 <= busy.disk_percent <= 100
    assert busy.gpu_percent is busy.gpu_memory_percent is None


class NVMLError(Exception):
    pass


def library(missing: str = "") -> SimpleNamespace:
    """NVIDIA's library with one GPU, as far as it is used; `missing` fails as it does without a driver."""

    def answer(name: str, value: object) -> object:
        def call(*arguments: object) -> object:
            if name == missing or arguments not in ((), ("GPU-abc",), ("device",)):
                raise NVMLError(name)
            return value

        return call

    answers = {
        "nvmlInit": None,
        "nvmlDeviceGetHandleByUUID": "device",
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=20, total=80),
    }
    return SimpleNamespace(
        NVMLError=NVMLError, **{name: answer(name, value) for name, value in answers.items()}
    )


def measured(monkeypatch: pytest.MonkeyPatch, installed: SimpleNamespace | None) -> Utilization:
    monkeypatch.setitem(sys.modules, "pynvml", installed)
    return Probe(Path.cwd(), "abc")()


def test_a_gpu_is_measured_where_its_library_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, library())
    assert (found.gpu_percent, found.gpu_memory_percent) == (37.0, 25.0)


@pytest.mark.parametrize(
    "missing", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUtilizationRates"]
)
def test_without_the_library_or_the_driver_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for installed in (None, library(missing)):
        assert measured(monkeypatch, installed).gpu_percent is None


def test_a_folder_that_has_gone_leaves_the_last_measurement_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = tmp_path / "state"
    folder.mkdir()
    probe = Probe(folder)
    before = probe()
    folder.rename(tmp_path / "away")
    assert [probe(), probe()] == [before, before]
    assert len(caplog.records) == 1
    (tmp_path / "away").rename(folder)
    probe()
    assert "goes on after 2 failed rounds" in caplog.text


def test_a_working_directory_that_was_removed_does_not_keep_a_slave_from_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert Probe(Path())().rss_bytes > 0


def test_a_gpu_that_falls_off_the_bus_leaves_the_last_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = library()
    monkeypatch.setitem(sys.modules, "pynvml", installed)
    probe = Probe(Path("/"), "abc")
    before = probe()
    assert before.gpu_percent == 37
    installed.nvmlDeviceGetMemoryInfo = library("nvmlDeviceGetMemoryInfo").nvmlDeviceGetMemoryInfo
    assert probe() == before
