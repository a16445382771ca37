from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data import user_data
from common.data.examples import Arrays
from common.errors import ConfigError
from common.signals.forms import PLAIN

GOOD = "np.zeros((4, 3)), np.array([0, 1, 0, 1]), np.ones((2, 3)), np.array([1, 0])"


def spec(folder: Path, returned: str) -> str:
    """A user's function that returns what an expression says."""
    file = folder / "own.py"
    file.write_text(f"import numpy as np\n\ndef own():\n    return {returned}\n")
    return f"{file}:own"


def refusal(folder: Path, returned: str) -> str:
    """The one line that what was returned is refused with, less the function that it names."""
    own = spec(folder, returned)
    with pytest.raises(ConfigError) as caught:
        user_data.load(own, None)
    said = str(caught.value)
    assert said.startswith(f"{own}: ")
    assert "\n" not in said
    return said.removeprefix(f"{own}: ")


def in_memory(own: str) -> tuple[Arrays, Arrays]:
    train, test = user_data.load(own, None)
    assert isinstance(train, Arrays)
    assert isinstance(test, Arrays)
    return train, test


def loaded(folder: Path, returned: str) -> list[tuple[str, tuple[int, ...]]]:
    """Type and shape of each of the four arrays."""
    train, test = in_memory(spec(folder, returned))
    return [(array.dtype.name, array.shape) for array in (train.x[PLAIN], train.y, test.x[PLAIN], test.y)]


def test_vectors_become_float32_and_labels_int64(tmp_path: Path) -> None:
    for returned in (GOOD, GOOD.replace("3)", "3), np.float16").replace("1])", "1], np.uint8)")):
        assert loaded(tmp_path, returned) == [
            ("float32", (4, 3)),
            ("int64", (4,)),
            ("float32", (2, 3)),
            ("int64", (2,)),
        ]


def test_torch_tensors_and_lists_are_taken_as_arrays(tmp_path: Path) -> None:
    own = spec(tmp_path, "[torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), [[0.0, 0.0, 0.0]], [2]]")
    file = tmp_path / "own.py"
    file.write_text(f"import torch\n{file.read_text()}")
    train, test = in_memory(own)
    assert (train.x[PLAIN].shape, test.x[PLAIN].shape) == ((4, 3), (1, 3))
    assert (train.y.tolist(), test.y.tolist()) == ([0, 1, 2, 3], [2])


@pytest.mark.parametrize(("shape", "becomes"), [((2, 5, 6), (2, 1, 5, 6)), ((2, 3, 5, 6), (2, 3, 5, 6))])
def test_images_stay_bytes_and_get_a_channel(
    tmp_path: Path, shape: tuple[int, ...], becomes: tuple[int, ...]
) -> None:
    x = f"np.arange({np.prod(shape)}, dtype=np.uint8).reshape({shape})"
    returned = f"{x}, np.array([0, 1]), {x}[:, ::-1], np.array([0, 1])"
    assert loaded(tmp_path, returned)[::2] == [("uint8", becomes), ("uint8", becomes)]


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("None", "returned a NoneType; return the four arrays train_x, train_y, test_x, test_y"),
        ("np.zeros((4, 3)), np.zeros(4, int)", "returned a tuple of 2; "),
        (GOOD.replace("(4, 3)", "4"), "train_x is float64 (4,); it must be vectors"),
        (GOOD.replace("(4, 3)", "(0, 3)"), "train_x is float64 (0, 3); it must be vectors"),
        (GOOD.replace("(2, 3)", "(2, 4)"), "train_x is float64 (4, 3) but test_x is float64 (2, 4); "),
        (
            GOOD.replace("(2, 3)", "(2, 3), np.uint8"),
            "train_x is float64 (4, 3) but test_x is uint8 (2, 3); ",
        ),
        (GOOD.replace("(4, 3)", "(4, 3), object"), "train_x is object (4, 3); its numbers must be"),
        (GOOD.replace("np.ones((2, 3))", "np.full((2, 3), np.nan)"), "test_x holds NaN, infinity or"),
        (GOOD.replace("np.ones((2, 3))", "np.full((2, 3), 1e300)"), "test_x holds NaN, infinity or"),
        (
            GOOD.replace("np.ones((2, 3))", "[[1.0], [1.0, 2.0]]"),
            "test_x cannot be read as a numpy array: ValueError",
        ),
        (
            GOOD.replace("[0, 1, 0, 1]", "[0, 1, 0]"),
            "train_y is int64 (3,); it must be numbers of the shape (4, ...)",
        ),
        (
            GOOD.replace("[1, 0]", "[[1], [0]]"),
            "train_y is int64 (4,) but test_y is int64 (2, 1); both must be of one shape",
        ),
        (GOOD.replace("[1, 0]", "[1.0, 0.0]"), "train_y is int64 (4,) but test_y is float64 (2,); "),
        ("1 / 0", "raised ZeroDivisionError: division by zero (line 4); correct the function"),
        ("open('/absent/file')", "raised FileNotFoundError: [Errno 2] No such file"),
        ("exit(3)", "raised SystemExit: 3 (line 4)"),
        ("own(1)", "raised TypeError: own() takes 0 positional arguments"),
    ],
)
def test_what_cannot_be_data_is_refused_in_one_line(tmp_path: Path, returned: str, told: str) -> None:
    assert refusal(tmp_path, returned).startswith(told)


def test_a_change_of_the_working_directory_ends_with_the_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative run directory used to be created in the folder that a user's file had changed to."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        f"import os, numpy as np\nos.chdir('elsewhere')\ndef own():\n    os.chdir('/')\n    return {GOOD}\n"
    )
    user_data.load("own.py:own", None)
    assert Path.cwd() == tmp_path


def test_a_tensor_that_numpy_cannot_read_is_refused_in_one_line(tmp_path: Path) -> None:
    returned = GOOD.replace("np.zeros((4, 3))", "__import__('torch').zeros(4, 3, requires_grad=True)")
    assert refusal(tmp_path, returned).startswith("train_x cannot be read as a numpy array: RuntimeError")


def test_whole_numbers_stay_whole_and_targets_keep_their_shape(tmp_path: Path) -> None:
    tokens = "np.arange(8, dtype=np.uint16).reshape(2, 4)"
    assert loaded(tmp_path, f"{tokens}, {tokens}, {tokens}, {tokens}") == [("int64", (2, 4))] * 4
    returned = "np.zeros((4, 3)), np.zeros((4, 2)), np.ones((2, 3)), np.ones((2, 2))"
    assert loaded(tmp_path, returned)[1::2] == [("float32", (4, 2)), ("float32", (2, 2))]


@pytest.mark.parametrize(
    "statement",
    [
        "np.load(FILE)",
        "np.load(str(FILE))",
        "np.load(open(FILE, 'rb'))",
        "(lambda path: int(path.read_text()))(FILE)",
    ],
)
def test_a_pointer_of_git_lfs_that_a_function_reads_is_named(tmp_path: Path, statement: str) -> None:
    (tmp_path / "data.npz").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    )
    own = spec(tmp_path, statement)
    file = tmp_path / "own.py"
    file.write_text(
        f"from pathlib import Path\nFILE = Path({str(tmp_path / 'data.npz')!r})\n{file.read_text()}"
    )
    with pytest.raises(ConfigError, match=r"\(line 6\); .*data.npz: is a pointer of Git LFS.*git lfs pull"):
        user_data.load(own, None)
