"""The command line refuses files and paths that it cannot use: one line, a code, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy import cli as command
from tests.deploy.finished import write_run

LONG = "x" * 300
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
SHORT = [
    "--set", "cluster.profile=synchronous", "--set", "run.batches=40", "--set", "network.options.widths=[8]",
]  # fmt: skip
DATA = """
import numpy as np
def gap():
    x = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    y = np.arange(600) % 10
    y[y == 9] = {label}
    return x[:500], y[:500], x[500:], y[500:]
"""
NETWORK = """
from torch import nn
def build():
    return [nn.Linear(4, 256)]
"""


@dataclass
class Done:
    """Result of a command."""

    code: int
    out: str
    err: str


@dataclass
class Line:
    """The command line in this process, in a folder of its own."""

    folder: Path
    captured: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> Done:
        """Run a command."""
        code = command.run(list(arguments))
        return Done(code, *self.captured.readouterr())

    def json(self, *arguments: str) -> Any:
        """Run a command that must succeed, and return the JSON on its standard output."""
        done = self.run(*arguments)
        assert done.code == 0, done.err
        return json.loads(done.out)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Line:
    """The command line, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Line(tmp_path, capsys)


def refused(done: Done, code: int, *parts: str) -> None:
    """Check that a command ended with the code and one line that has the parts."""
    assert done.code == code, done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert done.err.startswith("layerwise: ")
    for part in parts:
        assert part in done.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    return write_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run(finished: Path, line: Line) -> Path:
    """A copy of the finished run's directory."""
    return Path(shutil.copytree(finished, line.folder / "run"))


# --- what is read -----------------------------------------------------------------------------------------


def test_a_whole_run_is_evaluated_and_exported(line: Line, run: Path) -> None:
    assert line.json("evaluate", "run", "--json")["test_error_percent"] > 0
    for name in ("out.safetensors", "out.pt"):
        done = line.run("export", "run", "--output", name)
        assert (done.code, done.err) == (0, f"wrote {name}\n")
        assert stat.S_IMODE((line.folder / name).stat().st_mode) == 0o666 & ~_umask()
    assert (line.folder / "out.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert zipfile.ZipFile(line.folder / "out.pt").testzip() is None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("damage", ["torn", "flipped", "pointer", "missing", "folder"])
def test_a_damaged_model_is_neither_evaluated_nor_exported(line: Line, run: Path, damage: str) -> None:
    path = run / "model.safetensors"
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"torn": content[:-7], "flipped": bytes(flipped), "pointer": POINTER}[damage])
    said = {
        "torn": "is torn", "flipped": "was changed", "pointer": "git lfs pull", "missing": "is missing",
        "folder": "Is a directory; give a file",
    }[damage]  # fmt: skip
    for arguments in (
        ["evaluate", "run"],
        ["export", "run", "--output", "out.safetensors"],
        ["export", "run", "--output", "out.pt"],
    ):
        refused(line.run(*arguments), 2, "run/model.safetensors: ", said)
    assert not [path for path in line.folder.iterdir() if "out" in path.name]


def test_a_model_of_another_network_is_not_evaluated(line: Line, run: Path) -> None:
    from safetensors.torch import save_file

    save_file({"0.weight": torch.zeros(3)}, run / "model.safetensors")
    refused(line.run("evaluate", "run"), 2, "run/model.safetensors: does not fit the run's config.toml")


@pytest.mark.parametrize("content", [b"", b"[run]\nbatches = 4", b"\xff\xfe\x00", POINTER])
def test_a_damaged_configuration_is_refused(line: Line, run: Path, content: bytes) -> None:
    (run / "config.toml").write_bytes(content)
    refused(line.run("evaluate", "run"), 2, "run/config.toml: ")
    (run / "summary.json").unlink()
    refused(line.run("train", "--run-dir", "run"), 2, "run/config.toml: ")


@pytest.mark.parametrize("content", [POINTER, b"\x1f\x8b\x08cut", b""])
def test_a_damaged_data_file_is_refused(line: Line, content: bytes) -> None:
    from common.data import cifar10, idx

    folder = line.folder / "data"
    folder.mkdir()
    for name in (*idx.FILES, *cifar10.FILES):
        (folder / name).write_bytes(content)
    for dataset, file in (("mnist", idx.FILES[0]), ("cifar10", cifar10.FILES[0])):
        done = line.run("train", "--set", f"data.dataset={dataset}", "--set", "data.path=data")
        refused(done, 2, f"data/{file}: ", "get the file again")


def test_a_torn_array_file_of_a_users_own_data_is_refused(line: Line) -> None:
    (line.folder / "own.npz").write_bytes(b"PK\x03\x04 cut")
    text = f"import numpy as np\ndef load():\n    return np.load({str(line.folder / 'own.npz')!r})\n"
    (line.folder / "own.py").write_text(text)
    done = line.run("train", "--set", "data.dataset=own.py:load")
    refused(done, 2, "own.py:load: raised ", "correct the function")


def test_a_torn_summary_of_a_comparison_is_named(line: Line) -> None:
    (line.folder / "plain.toml").write_text("[run]\nbatches = 20\n[network]\noptions = {widths = [8]}\n")
    compare = ["compare", "plain.toml", "--over", "run.batch_size=16", "--in", "synchronous", "--out", "out"]
    assert line.run(*compare).code == 0
    (summary,) = (line.folder / "out").rglob("summary.json")
    summary.write_text(summary.read_text()[:40])
    refused(line.run(*compare), 2, "summary.json: is torn", "remove the file to have the run trained again")


def test_a_configuration_with_a_byte_order_mark_is_read(line: Line) -> None:
    (line.folder / "marked.toml").write_bytes(b"\xef\xbb\xbf[run]\r\nbatches = 77\r\n")
    assert "batches = 77" in line.run("config", "marked.toml").out


# --- paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", LONG],
        ["train", *SHORT, "--run-dir", LONG],
        ["train", "--set", f"data.path={LONG}"],
        ["train", "--set", f"network.model={LONG}.py:build"],
        ["train", "--set", f"data.dataset={LONG}.py:load"],
        ["simulate", "--train", *SHORT, "--run-dir", LONG],
        ["compare", "plain.toml", "--over", "run.seed=1,2", "--out", LONG],
        ["evaluate", LONG],
        ["export", LONG, "--output", "out.pt"],
        ["export", "run", "--output", f"{LONG}.pt"],
        ["config", LONG],
        ["master", LONG, "--state-dir", "state"],
    ],
    ids=lambda arguments: " ".join(a[:12] for a in arguments),
)
def test_a_path_that_is_too_long_is_refused(line: Line, run: Path, arguments: list[str]) -> None:
    (line.folder / "plain.toml").write_text("[run]\nbatches = 20\n")
    refused(line.run(*arguments), 2, LONG, "File name too long; ")


@pytest.mark.parametrize("number", ["nan", "-1", "-inf", "x"])
@pytest.mark.parametrize(
    "arguments",
    [["slave", "--master", "127.0.0.1:1", "--wait"], ["generate", "run", "--prompt", "a", "--temperature"]],
    ids=lambda arguments: str(arguments[-1]),
)
def test_what_is_no_number_from_zero_on_is_refused(line: Line, arguments: list[str], number: str) -> None:
    done = line.run(*arguments, number)
    assert (done.code, done.out) == (2, "")
    assert f"Invalid value for '{arguments[-1]}': " in done.err
    assert number in done.err


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["train", *SHORT, "--run-dir", "file/run"], "file/run"),
        (["evaluate", "file"], "file/model.safetensors"),
        (["export", "run", "--output", "taken.pt"], "taken.pt"),
        (["compare", "plain.toml", "--over", "run.seed=1,2", "--out", "file"], "file"),
    ],
)
def test_a_file_in_a_folders_place_and_the_reverse_are_refused(
    line: Line, run: Path, arguments: list[str], path: str
) -> None:
    (line.folder / "plain.toml").write_text("[run]\nbatches = 20\n")
    (line.folder / "file").touch()
    (line.folder / "taken.pt").mkdir()
    refused(line.run(*arguments), 2, f"layerwise: {path}: ")


def test_an_error_with_debug_shows_where_it_comes_from(line: Line) -> None:
    with pytest.raises(OSError, match="File name too long"):
        line.run("--debug", "train", *SHORT, "--run-dir", LONG)


# --- labels------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (255, "no example has the label 9, but labels go up to 255; remove examples to be ignored"),
        (10**8, "the labels go up to 100000000, but there are 600 examples"),
    ],
)
def test_labels_with_gaps_are_refused_before_memory_is_taken(line: Line, label: int, said: str) -> None:
    (line.folder / "own.py").write_text(DATA.replace("{label}", str(label)))
    refused(line.run("train", "--set", "data.dataset=own.py:gap"), 2, "data.dataset: ", "own.py:gap: ", said)


LOSS = "def loss(output, target):\n    return {body}\n"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task.kind=loss.py:loss"], "loss.py:loss: returned float32 () for 64 examples; return the loss"),
        (
            ["task.kind=loss.py:loss", "cluster.profile=light", "cluster.synthesis=master"],
            "cluster.synthesis: the master runs no function",
        ),
        (["task.kind=loss.py:other"], 'loss.py: has no function "other"'),
        (["task.kind=regression"], "digits: train_y is int64 (1437,); it must be floating-point"),
        (["task.kind=multilabel"], '"multilabel" is not one of classification, multi-label'),
        (["task.options={smoothing=0.1}"], 'smoothing: unknown key; did you mean "task.options.'),
        (["task.options={class_weights=[1.0]}"], "class_weights: 1 weights for 10 classes; give one each"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_loss_and_targets_that_do_not_fit_are_refused_before_a_process_starts(
    line: Line, settings: list[str], said: str
) -> None:
    (line.folder / "loss.py").write_text(LOSS.format(body="(output[:, 0] - target).square().mean()"))
    keys = [word for each in [*settings, "run.batch_size=64"] for word in ("--set", each)]
    refused(line.run("train", *SHORT, *keys), 2, said)
    assert not (line.folder / "runs").exists()


def test_a_last_layer_without_parameters_is_refused_under_local(line: Line) -> None:
    (line.folder / "network.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), nn.LogSoftmax(1)]\n"
    )
    own = ["--set", "network.model=network.py:build", "--set", "decoupling.unlock=local"]
    refused(line.run("train", *own), 2, "network.cuts: [1] leaves the last layer no parameters to train")


def test_labels_with_gaps_train_a_network_of_the_users_own_that_has_their_outputs(line: Line) -> None:
    (line.folder / "own.py").write_text(DATA.replace("{label}", "255"))
    (line.folder / "network.py").write_text(NETWORK)
    own = ["--set", "data.dataset=own.py:gap", "--set", "network.model=network.py:build"]
    summary = line.json("train", *SHORT[:4], *own, "--set", "run.batch_size=16", "--json")
    assert summary["batches"] == 40


# --- texts, and data that are read by row -------------------------------------------------------------------

OWN = """
import numpy as np
from pathlib import Path

class Pairs:
    def __len__(self):
        return 200
    def __getitem__(self, row):
        return {item}

def pairs():
    return Pairs(), Pairs()

def files():
    return Path("torn.parquet"), Path("torn.parquet")
"""


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        (["data.dataset=text"], ["data.path: is unset; give the file or folder of text"]),
        (["data.dataset=text", "data.path=absent"], ["absent is not a file or folder; "]),
        (["data.dataset=text", "data.path=empty.txt"], ["data.path: ", "empty.txt is empty; "]),
        (["data.dataset=text", "data.path=short.txt"], ["data.context: 128 needs 129 tokens at least, "]),
        (
            ["data.dataset=text", "data.path=short.txt", "network.model=lstm", "time.window=99"],
            ["time.window: 99 needs 100 tokens at least, but the training part of "],
        ),
        (
            ["data.dataset=text", "data.path=short.txt", "network.model=lstm", "time.window=2"],
            ["run.batch_size: 64 streams need 64 windows of 2 steps, but the training data has "],
        ),
        (
            ["data.dataset=text", "data.path=short.txt", "data.tokens=word"],
            ['data.tokens: "word" is neither bytes, characters, words nor a file; did you mean "words"?'],
        ),
        (
            ["data.dataset=tokens", "data.path=.", "data.context=8", "data.vocabulary=99"],
            ["data.vocabulary: 99 is too small: ", "train.bin holds the token 299; give at least 300"],
        ),
        (["data.dataset=own.py:pairs"], ["own.py:pairs: the training set begins with the input float64 ()"]),
        (["data.dataset=rows.py:pairs"], ["rows.py:pairs: the training set: example 0 has the shape (1,), "]),
        (["data.dataset=own.py:files"], ["own.py:files: the training set: torn.parquet "]),
    ],
)
def test_data_that_cannot_be_read_are_refused_before_the_start(
    line: Line, sets: list[str], parts: list[str]
) -> None:
    (line.folder / "own.py").write_text(OWN.format(item="0.5, 1"))
    (line.folder / "rows.py").write_text(OWN.format(item="np.zeros(1 + row), row % 3"))
    (line.folder / "torn.parquet").write_bytes(b"PAR1")
    (line.folder / "empty.txt").touch()
    (line.folder / "short.txt").write_text("a short text\n" * 2)
    for name in ("train", "val"):
        (line.folder / f"{name}.bin").write_bytes(b"".join(n.to_bytes(2, "little") for n in range(300)))
    settings = [word for each in sets for word in ("--set", each)]
    refused(line.run("train", *settings), 2, *parts)
    assert not (line.folder / "runs").exists()
