"""Inputs by name that cannot be trained on are refused, with the name of the tensor."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from common.config.data import DataConfig
from common.data import datasets
from common.data.batches import Batches
from common.data.lazy import Lazy
from common.data.map_style import MapStyleRows
from common.errors import ConfigError


def refusal(folder: Path, text: str) -> str:
    """Return the one line with which the data of a file are refused, less the function's name."""
    (folder / "own.py").write_text(f"import numpy as np\n{text}")
    name = f"{folder}/own.py:own"
    with pytest.raises(ConfigError) as caught:
        Batches(datasets.load(DataConfig(dataset=name)), 0, 20).inputs(0)
    said = str(caught.value)
    assert said.startswith(f"{name}: ")
    assert "\n" not in said
    return said.removeprefix(f"{name}: ")


@pytest.mark.parametrize(
    ("x", "told"),
    [
        ("{}", "train_x has no tensor; give one at least"),
        ("{'a b': F}", "train_x has a tensor named 'a b'; a name has letters, digits and _"),
        ("{'': F}", "train_x has a tensor named ''; "),
        ("{1: F}", "train_x has a tensor named 1; "),
        ("{'a' * 65: F}", "train_x has a tensor named 'aaaa"),
        ("{'a': F, 'b': F[:3]}", 'train_x["a"] has 4 examples, train_x["b"] 3; give all the same number'),
        ("{'a': F, 'b': np.float32(1)}", 'train_x["a"] has 4 examples, train_x["b"] 0; give all'),
        (
            "{'a': F, 'b': np.array(list('abcd'))}",
            'train_x["b"] is <U1 (4,); it must have an example at least',
        ),
        ("{'a': F[:0]}", 'train_x["a"] is float64 (0, 3); it must have an example at least'),
        ("{'a': F, 'b': [[1], [1, 2]]}", 'train_x["b"] cannot be read as a numpy array: ValueError'),
        ("{'a': F, 'b': F * np.nan}", 'train_x["b"] holds NaN, infinity or a number too large'),
        ("{'a': F[:3]}", "train_y is int64 (4,); it must be numbers of the shape (3, ...)"),
        ("F > 0", "train_x is bool (4, 3); its numbers must be uint8, floating point or whole"),
        (
            "{'a': F, 'b': F}",
            "an input of the training set has the tensors a, b, an input of the test set the tensors a; both",
        ),
        (
            "F",
            "an input of the training set has one tensor without a name, an input of the test set the",
        ),
        (
            "{'a': F > 0}",
            'train_x["a"] is bool (4, 3) but test_x["a"] is float64 (2, 3); both must be of one shape',
        ),
        ("{'a': F[:, :2]}", 'train_x["a"] is float64 (4, 2) but test_x["a"] is float64 (2, 3); both must'),
    ],
)
def test_bad_dicts_of_arrays_are_refused_in_one_line(tmp_path: Path, x: str, told: str) -> None:
    text = f"F = np.ones((4, 3))\ndef own(): return {x}, np.arange(4) % 2, {{'a': F[:2]}}, np.arange(2)\n"
    assert refusal(tmp_path, text).startswith(told)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("{}", "the training set: the input of example 0 has no tensor; give one at least"),
        ("{'a-b': 1.0}", "the training set: the input of example 0 has a tensor named 'a-b'; "),
        (
            "{'a': 'four'}",
            'the training set begins with the input "a" <U4 () and the target int64 (); an input',
        ),
        (
            "{'a': np.ones(2 + row % 2)}",
            'the training set: example 0 "a" has the shape (2,), example 1 (3,); give all the same',
        ),
        (
            "{'a': 1.0} if row < 5 else {'b': 1.0}",
            "the training set: example 5 has the tensors b, others the tensors a; give all the same",
        ),
        (
            "{'a': 1.0} if row < 5 else 1.0",
            "the training set: example 5 has one tensor without a name, others the tensors a; give all",
        ),
        (
            "{'a': True if row < 5 else 2}",
            'the training set: the input "a" is bool and int64; give all the same',
        ),
        ("{'a': np.float64('nan')}", 'the training set: the input "a" holds NaN, infinity or a number too'),
    ],
)
def test_bad_dicts_of_pairs_are_refused_in_one_line(tmp_path: Path, item: str, told: str) -> None:
    text = (
        "class Pairs:\n"
        "    def __len__(self):\n"
        "        return 20\n"
        "    def __getitem__(self, row):\n"
        f"        return {item}, row % 2\n"
        "def own():\n"
        "    return Pairs(), Pairs()\n"
    )
    assert refusal(tmp_path, text).startswith(told)


def test_other_names_in_a_later_batch_are_refused_as_they_are_read() -> None:
    class Pairs:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, row: int) -> tuple[dict[str, bool], int]:
            return {"b" if row == 13 else "a": True}, row

    examples = Lazy.of(MapStyleRows(Pairs(), "own"), "own")
    assert examples.inputs(np.array([12]))["a"].tolist() == [True]
    with pytest.raises(ConfigError, match=r"^own: example 13 has the tensors b, others the tensors a; "):
        examples.inputs(np.array([13]))


@pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="the optional package pyarrow is not installed"
)
@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            "{'a': F, 'b': F, 'c': I}",
            "the training set has the columns a, b, c; select the input and the",
        ),
        ("{'y': I, 'a b': F, 'c': F}", "the training set has a tensor named 'a b'; a name has letters"),
        ("{'y': I, 'a': F, 'c': list('abcd')}", "the training set: the column c holds string; give numbers"),
        (
            "{'a': [True] * 4, 'y': I}",
            "the training set begins with the input bool () and the target int64 ()",
        ),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, columns: str, told: str) -> None:
    text = f"F, I = [0.5, 1, 2, 3], [0, 1, 0, 1]\ndef own():\n    return [pyarrow.table({columns})] * 2\n"
    assert refusal(tmp_path, f"import pyarrow\n{text}").startswith(told)
