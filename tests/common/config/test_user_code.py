from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from common.config.user_code import check_sent_files, load_user_function
from common.errors import ConfigError


def written(folder: Path, text: str, name: str = "own.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def refusal(spec: str, code: Path | None = None) -> str:
    """The one line that a function is refused with."""
    with pytest.raises(ConfigError) as caught:
        load_user_function(spec, code)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_with_a_packages_name_is_loaded_and_hides_nothing(tmp_path: Path) -> None:
    before = sys.modules["common"]
    file = written(tmp_path, "def answer():\n    return 42\n", "common.py")
    assert load_user_function(f"{file}:answer", None)() == 42
    assert sys.modules["common"] is before


def test_a_files_own_dataclasses_find_their_module(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nimport dataclasses, typing\n"
        "@dataclasses.dataclass\nclass Answer:\n    value: typing.ClassVar[int] = 42\n"
    )
    function = load_user_function(f"{written(tmp_path, text)}:Answer", None)
    assert function.__module__.startswith("common.config.user_modules.")
    assert function().value == 42


def test_two_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    functions = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = written(tmp_path / name, f"NAME = {name!r}\ndef own():\n    return NAME\n")
        functions.append(load_user_function(f"{file}:own", None))
    assert [function() for function in functions] == ["one", "two"]


def test_a_code_folder_is_looked_in_first_and_the_path_after_it(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    file = written(tmp_path, "def where():\n    return 'path'\n")
    spec = f"{file}:where"
    assert load_user_function(spec, code)() == "path"
    written(code, "def where():\n    return 'code'\n")
    assert load_user_function(spec, code)() == "code"


def test_a_file_that_is_nowhere_is_told_with_both_places(tmp_path: Path) -> None:
    assert refusal("/absent/own.py:f").startswith("/absent/own.py: no such file; ")
    assert f"nor own.py in {tmp_path}; " in refusal("/absent/own.py:f", tmp_path)
    assert refusal("/absent/own.py:f", tmp_path / "x").startswith(f"--code: {tmp_path / 'x'} is no folder; ")


def test_a_file_that_a_master_names_comes_from_the_code_folder_alone(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    sent = {"network.model": f"{written(tmp_path, '')}:f"}
    refused = {None: "no path of a master is run", code: "no such file", tmp_path / "x": "x is no folder"}
    for folder, why in refused.items():
        with pytest.raises(ConfigError, match=why):
            check_sent_files(sent, folder, {})
    # Of `train`: this user has given the path, and no other one.
    check_sent_files(sent, None, sent)
    with pytest.raises(ConfigError, match="no path of a master is run"):
        check_sent_files({**sent, "task.kind": "/else/own.py:loss"}, None, sent)
    written(code, "")
    check_sent_files(sent, code, {})


@pytest.mark.parametrize("spec", ["", "own.py", "own:f", "own.py:", "own.py:a.b"])
def test_what_names_no_function_in_a_file_is_refused(spec: str) -> None:
    assert "path/to/file.py:function" in refusal(spec)


def test_a_function_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    file = written(tmp_path, "from os.path import join\nnumber = 3\ndef network():\n    pass\n")
    assert refusal(f"{file}:netwrok") == f'{file}: has no function "netwrok"; did you mean "network"?'
    assert refusal(f"{file}:number").endswith("; known are network")
    assert refusal(f"{written(tmp_path, '', 'empty.py')}:f").endswith('has no function "f"')


def test_a_module_beside_the_file_is_found_after_every_installed_one(tmp_path: Path) -> None:
    """A random.py beside a user's file used to be out of reach, and so was every helper."""
    written(tmp_path, "VALUE = 42\n", "helper_of_the_search_test.py")
    for name in ("random", "queue", "numpy", "common"):
        written(tmp_path, "raise RuntimeError('hidden')\n", f"{name}.py")
    text = (
        "import random, queue, numpy, common\nimport helper_of_the_search_test\n"
        "def own():\n    return helper_of_the_search_test.VALUE, random.__file__\n"
    )
    value, place = load_user_function(f"{written(tmp_path, text)}:own", None)()
    assert value == 42
    assert not place.startswith(str(tmp_path))
    assert sys.path[-1] == str(tmp_path)


def test_a_file_hidden_by_an_installed_module_is_told(tmp_path: Path) -> None:
    written(tmp_path, "def shuffle_rows():\n    pass\n", "random.py")
    said = refusal(f"{written(tmp_path, 'from random import shuffle_rows')}:own")
    assert "an installed module of the name of a file beside it comes first" in said


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_a_users_file_starts_find_its_functions(tmp_path: Path, method: str) -> None:
    """Workers used to die of ModuleNotFoundError, and a pool started new ones for ever."""
    text = (
        "import multiprocessing\ndef double(x):\n    return 2 * x\n"
        f"def own():\n    with multiprocessing.get_context({method!r}).Pool(2) as pool:\n"
        "        return pool.map(double, range(3))\n"
    )
    assert load_user_function(f"{written(tmp_path, text, 'random.py')}:own", None)() == [0, 2, 4]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\nraise ValueError('two\\nlines')\n", "ValueError: two lines (line 2)"),
        ("def f(:\n", "SyntaxError: "),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (line 2)"),
        ("assert False\n", "AssertionError (line 1)"),
        (
            "import no_such_neighbour\n",
            "No module named 'no_such_neighbour' (line 1); install the module, or put it beside the file",
        ),
        ("\0", "cannot be run: "),
    ],
)
def test_what_a_file_raises_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = written(tmp_path, text)
    before = set(sys.modules)
    assert re.match(f"{re.escape(str(file))}: cannot be run: .*", refusal(f"{file}:f"))
    assert told in refusal(f"{file}:f")
    assert set(sys.modules) == before
