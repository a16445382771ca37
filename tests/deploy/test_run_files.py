"""Files of a run: whole or not at all, verified when read, and never a reason for the run to end."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common.config.sections import Config
from common.data.datasets import Dataset
from common.data.examples import Arrays
from common.data.statistics import Scaling
from common.errors import ConfigError, RefusedError, RunFailedError
from common.wire.messages import Evaluation
from deploy.runs import files, metrics
from deploy.runs.directory import CONFIG, RunDirectory, new_directory, saved_config
from deploy.runs.files import read_object, write_file
from deploy.runs.metrics import METRICS, MetricsFile, read_metrics
from deploy.runs.model import MODEL, _metadata, encode_model, load_model
from deploy.runs.plots import _delays, _throughput
from deploy.runs.summary import SUMMARY
from tests.deploy.runs import digits

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
STATE = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.count": torch.tensor(3), "0.flag": torch.ones(2) > 0}
LINE = {"kind": "evaluation", "seconds": 1.0, "batches": 1, "test_error_percent": 2.0, "versions": {"1": 3}}
PLOTTED = {
    "name": "a$_$",
    "dataset": "d",
    "unlock": "none",
    "metrics": {"error_percent": 2.0},
    "test_loss": 1.0,
}


def fail(*arguments: object) -> Any:
    """Fail as a full disk does."""
    raise FULL


# --- metrics.jsonl ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(1, len(json.dumps(LINE)) + 1))
def test_a_torn_last_line_is_passed_over_by_readers_and_cut_off_by_a_resumed_run(
    tmp_path: Path, cut: int
) -> None:
    whole = json.dumps(LINE).encode() + b"\n"
    (tmp_path / METRICS).write_bytes(whole + whole[:cut])
    assert read_metrics(tmp_path) in ([LINE], [LINE, LINE])  # only the line's end may be lacking
    written = MetricsFile(tmp_path / METRICS)
    assert written.cut_torn_line() == cut
    written.append(LINE)
    assert (tmp_path / METRICS).read_bytes() == 2 * whole


def test_a_line_that_is_none_of_ours_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes(b'{"kind": "a"}{"kind": "b"}\n\xff\xfe\n[]\n3\n\n{"kind": "c"}\n')
    assert read_metrics(tmp_path) == [{"kind": "c"}]


def test_a_resumed_run_reports_the_torn_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / METRICS).write_bytes(b'{"kind": "a"}\n{"ki')
    RunDirectory(tmp_path).begin(Config())
    assert capsys.readouterr().err == f"{tmp_path / METRICS}: its last line was torn; 4 bytes are cut off\n"
    assert read_metrics(tmp_path) == [{"kind": "a"}]


def test_lines_of_a_full_disk_wait_in_order_and_the_failure_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(metrics, "_append", fail)
        for number in range(3):
            directory.note_evaluation(Evaluation(number), 1.0)
    assert read_metrics(tmp_path) == []
    directory.note_evaluation(Evaluation(3), 2.0)
    assert [line["batches"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("No space left on device; the run goes on") == 1


def test_a_line_that_was_written_in_part_is_taken_back(tmp_path: Path) -> None:
    class Filling:
        """A file on a disk that has room for five bytes more."""

        def __init__(self) -> None:
            self.content, self.room = bytearray(b"whole\n"), 5

        def seek(self, _offset: int, _whence: int) -> int:
            return len(self.content)

        def write(self, data: memoryview) -> int:
            if not self.room:
                raise FULL
            part = bytes(data[: self.room])
            self.content += part
            self.room -= len(part)
            return len(part)

        def truncate(self, size: int) -> None:
            del self.content[size:]

    file: Any = Filling()
    with pytest.raises(OSError, match="No space left"):
        metrics._append(file, b"a longer line\n")
    assert bytes(file.content) == b"whole\n"


# --- files that are written whole -------------------------------------------------------------------------


def test_a_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / MODEL, encode_model(STATE, Config(), digits()))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / MODEL).stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == [MODEL]


def inputs(data: Dataset) -> Any:
    """The description of the inputs in a model file."""
    return json.loads(_metadata(encode_model(STATE, Config(), data))["inputs"])


def test_a_model_describes_its_inputs_by_name_unless_they_are_plain() -> None:
    (digits_scaling,) = digits().scalings.values()
    assert inputs(digits()) == {
        "shape": [1, 8, 8],
        "dtype": "float32",
        "scale": 1 / 16,
        "mean": list(digits_scaling.mean),
        "std": list(digits_scaling.std),
    }
    x = {"x": np.zeros((2, 4), np.float32), "mask": np.zeros((2, 3), bool), "tokens": np.zeros((2, 3), int)}
    part = Arrays(x, np.arange(2))
    raw = {"scale": 1.0, "mean": [], "std": []}
    assert inputs(Dataset("own", part, part, {"x": Scaling((0.5,), (2.0,), 1.0)}, 2)) == {
        "x": {"shape": [4], "dtype": "float32", "scale": 1.0, "mean": [0.5], "std": [2.0]},
        "mask": {"shape": [3], "dtype": "bool", **raw},
        "tokens": {"shape": [3], "dtype": "int64", **raw},
    }


def test_a_file_that_reads_back_otherwise_is_an_error_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "f", b"old")

    def spoil(file: Any) -> None:
        file.seek(0)
        file.write(b"X")
        file.flush()

    monkeypatch.setattr(files, "_drop_cache", spoil)
    with pytest.raises(OSError, match="reads back otherwise") as caught:
        write_file(tmp_path / "f", b"new")
    assert caught.value.filename == str(tmp_path / "f")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f": b"old"}


def test_a_file_of_a_full_disk_is_an_error_with_its_path_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "f", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_file(tmp_path / "f", b"new")
    assert caught.value.filename == str(tmp_path / "f")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f": b"old"}


# --- the end of a run -------------------------------------------------------------------------------------


def test_a_run_whose_files_cannot_be_written_names_them_and_is_not_marked_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    directory.begin(Config())
    with monkeypatch.context() as full:
        full.setattr(metrics, "_append", fail)
        full.setattr("deploy.runs.directory.write_file", fail)
        directory.note_evaluation(Evaluation(1), 1.0)
        incomplete = directory.finish(PLOTTED, STATE, Config(), digits())
    assert isinstance(incomplete, RunFailedError)
    text = str(incomplete)
    assert all(f"{name} (No space left on device)" in text for name in (METRICS, MODEL))
    assert not (tmp_path / SUMMARY).exists()
    assert directory.finish(PLOTTED, STATE, Config(), digits()) is None
    assert json.loads((tmp_path / SUMMARY).read_text()) == PLOTTED
    assert [line["batches"] for line in read_metrics(tmp_path)] == [1]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "error.png",
        "throughput.png",
        "delay.png",
    }


@pytest.mark.parametrize("layers", [3, 64])
def test_a_legend_names_few_layers_and_a_scale_of_colours_many(layers: int) -> None:
    beats = [
        {"layer": k, "replica": 0, "seconds": 1.0 * t, "samples_per_second": 10.0, "delays": {"1": 5, "4": 1}}
        for t in range(3)
        for k in range(1, layers + 1)
    ]
    for draw in (_throughput, _delays):
        axes = draw(beats, "a run")
        assert (axes.get_legend() is None) == (layers == 64)
        assert len(axes.figure.axes) == (2 if layers == 64 else 1)


# --- files that are read ----------------------------------------------------------------------------------


def model_in(folder: Path) -> Path:
    """Write a model, and return its path."""
    write_file(folder / MODEL, encode_model(STATE, Config(), digits()))
    return folder / MODEL


def test_a_whole_model_is_loaded(tmp_path: Path) -> None:
    model_in(tmp_path)
    state = load_model(tmp_path).state
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)
    assert load_file(tmp_path / MODEL).keys() == STATE.keys()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, -1])
def test_a_torn_model_is_refused(tmp_path: Path, size: int) -> None:
    path = model_in(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ConfigError, match=f"{MODEL}: is torn"):
        load_model(tmp_path)


def test_a_model_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = model_in(tmp_path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="was changed"):
        load_model(tmp_path)


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(POINTER)
    with pytest.raises(ConfigError, match=r"pointer of Git LFS.*git lfs pull"):
        load_model(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{MODEL}: is missing; give a finished run"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[]", b"\xff", b"[" * 100_000])
def test_a_torn_summary_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SUMMARY).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{SUMMARY}: is .*; remove it"):
        read_object(tmp_path / SUMMARY, "remove it")


def test_a_configuration_torn_at_any_byte_is_refused_or_lacks_no_section(tmp_path: Path) -> None:
    text = Config().with_cuts([1, 2]).to_toml()
    (tmp_path / CONFIG).write_text(text)
    assert saved_config(tmp_path) == Config().with_cuts([1, 2])
    for size in range(text.index("[simulation]")):
        (tmp_path / CONFIG).write_text(text[:size])
        with pytest.raises(ConfigError, match=CONFIG):
            saved_config(tmp_path)


def test_a_configuration_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        saved_config(tmp_path)


# --- one writer -------------------------------------------------------------------------------------------


def test_a_directory_in_use_is_refused_until_its_user_ends(tmp_path: Path) -> None:
    first = RunDirectory(tmp_path)
    with pytest.raises(RefusedError, match=f"--run-dir {tmp_path}: another command is writing there"):
        RunDirectory(tmp_path)
    first.close()
    RunDirectory(tmp_path)


def test_two_commands_of_one_second_get_two_new_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len({new_directory("run") for _ in range(3)}) == 3
