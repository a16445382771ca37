"""Runs on a user's own data in every form that a data function may return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save

from deploy import cli as command
from deploy.runs.model import load_model

OWN = """
import numpy as np
from pathlib import Path

HERE = Path(__file__).parent

class Pairs:
    classes = ["none", "one", "two"]
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __len__(self):
        return len(self.x)
    def __getitem__(self, row):
        return self.x[row], int(self.y[row])

def read(mode=None):
    return [np.load(HERE / f"{name}.npy", mmap_mode=mode) for name in ("x", "y", "t", "u")]

def arrays():
    return read()

def mapped():
    return read("r")

def pairs():
    x, y, t, u = read()
    return Pairs(x, y), Pairs(t, u)

def named():
    x, y, t, u = read()
    return {"x": x, "mask": x > 0}, y, {"x": t, "mask": t > 0}, u

def torn():
    x, y, t, u = read()
    return {"x": x, "mask": x[1:] > 0}, y, {"x": t, "mask": t > 0}, u

def tables():
    return HERE / "train.parquet", HERE / "test.parquet"
"""
SETTINGS = [
    "--set", "cluster.profile=synchronous", "--set", "run.batches=30", "--set", "run.batch_size=16",
    "--set", "network.options.widths=[8]", "--json",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one data set in several forms; up to 1,000 rows, all count for mean and deviation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    x = generator.normal(size=(250, 5)).astype(np.float32)
    y = (np.abs(x[:, 0]) + x[:, 1] > 0.5).astype(np.int64) + (x[:, 2] > 0)
    arrays: list[np.ndarray] = [x[:200], y[:200], x[200:], y[200:]]
    for name, array in zip("xytu", arrays, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def train(form: str, captured: pytest.CaptureFixture[str]) -> Any:
    """Train on a form of the data, and return the test loss."""
    code = command.run(["train", "--set", f"data.dataset=own.py:{form}", *SETTINGS])
    out, err = captured.readouterr()
    assert code == 0, err
    return json.loads(out)["test_loss"]


def test_arrays_mapped_arrays_and_pairs_train_to_the_same_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    due = train("arrays", capsys)
    assert train("mapped", capsys) == due
    assert train("pairs", capsys) == due


def test_parquet_files_train_to_the_same_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")
    from pyarrow import parquet

    for part, (x, y) in {"train": ("x", "y"), "test": ("t", "u")}.items():
        columns = {"x": list(np.load(folder / f"{x}.npy")), "y": np.load(folder / f"{y}.npy")}
        parquet.write_table(pyarrow.table(columns), folder / f"{part}.parquet")
    assert train("tables", capsys) == train("arrays", capsys)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("named", 'own.py:named" are {x: (B, 5), mask: bool (B, 5)}; give a network of your own'),
        ("torn", 'own.py:torn: train_x["x"] has 200 examples, train_x["mask"] 199; give all the same number'),
    ],
)
def test_named_inputs_that_do_not_fit_end_a_run_before_its_start(
    folder: Path, capsys: pytest.CaptureFixture[str], form: str, told: str
) -> None:
    assert command.run(["train", "--set", f"data.dataset=own.py:{form}", *SETTINGS]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert form == "torn" or err.startswith(
        "layerwise: network.model: mlp takes one tensor, but the examples"
    )


LANGUAGE = [
    "--set", "task.kind=language", "--set", "network.model=gpt", "--set", "data.context=8", "--set",
    "network.options={width=8,heads=2,blocks=1}", "--set", "run.batches=10", "--set", "run.batch_size=4",
    "--set", "cluster.profile=synchronous", "--json",
]  # fmt: skip


def test_a_text_trains_and_its_vocabulary_travels_with_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "to be or not to be\n" * 30
    (folder / "text.txt").write_text(text)
    asked = ["--set", "data.dataset=text", "--set", "data.path=text.txt", "--set", "data.tokens=words"]
    assert command.run(["train", *asked, *LANGUAGE, "--run-dir", "run"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["bits_per_token"] > metrics["bits_per_character"] * 2
    vocabulary = load_model(folder / "run").read_vocabulary()
    assert vocabulary is not None
    assert vocabulary.decode(vocabulary.encode("not to be\nor see")) == "not to be\nor <unk>"


def test_text_is_generated_from_the_model_alone_without_the_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "text.txt").write_text("to be or not to be\n" * 30)
    asked = ["--set", "data.dataset=text", "--set", "data.path=text.txt", "--set", "data.tokens=words"]
    assert command.run(["train", *asked, *LANGUAGE, "--run-dir", "run"]) == 0
    (folder / "text.txt").unlink()
    capsys.readouterr()
    assert command.run(["generate", "run", "--prompt", "not to", "--tokens", "3", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    assert text.startswith("not to")
    assert len(text) > len("not to")

    path = folder / "run" / "model.safetensors"
    state, words = load_model(folder / "run").state, json.dumps({"kind": "words", "words": ["a"]})
    path.write_bytes(save(state, {"vocabulary": words}))
    assert command.run(["generate", "run", "--prompt", "a"]) == 2
    assert "model.safetensors: lacks the form of inputs or targets" in capsys.readouterr().err


def test_files_of_tokens_train(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "val"):
        (np.arange(300, dtype="<u2") % 7).tofile(folder / f"{name}.bin")
    asked = ["--set", "data.dataset=tokens", "--set", "data.path=."]
    assert command.run(["train", *asked, *LANGUAGE, "--run-dir", "run"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["perplexity"] > 1
    assert load_model(folder / "run").read_vocabulary() is None
