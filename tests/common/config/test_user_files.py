"""Digests of a user's file and of what the file imports from beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from common.config.user_files import digest_files

OWN = (
    "import os, random, helper_beside_the_digests\nfrom package_beside.inner import x\n"
    "def own():\n    import late_beside\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "helper_beside_the_digests.py").write_text("import further_beside\n")
    for name in ("further_beside", "late_beside", "unused_beside", "random"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "package_beside").mkdir()
    (tmp_path / "package_beside" / "__init__.py").write_text("")
    (tmp_path / "package_beside" / "inner.py").write_text("x = 1\n")
    return tmp_path


def test_the_file_and_all_that_it_imports_from_beside_it_are_digested(folder: Path) -> None:
    assert set(digest_files(f"{folder}/own.py:own", None)) == {
        "own.py",
        "helper_beside_the_digests.py",
        "further_beside.py",
        "late_beside.py",
        "package_beside/__init__.py",
        "package_beside/inner.py",
    }


@pytest.mark.parametrize("edited", ["own.py", "further_beside.py", "package_beside/inner.py"])
def test_an_edited_file_changes_its_own_digest_alone(folder: Path, edited: str) -> None:
    before = digest_files(f"{folder}/own.py:own", None)
    (folder / edited).write_text((folder / edited).read_text() + "\n# edited\n")
    after = digest_files(f"{folder}/own.py:own", None)
    assert [name for name in after if after[name] != before[name]] == [edited]


def test_a_code_folder_gives_the_digests_of_its_own_files(folder: Path, tmp_path: Path) -> None:
    there = digest_files(f"{folder}/own.py:own", None)
    assert digest_files("/absent/own.py:own", folder) == there


def test_a_file_that_is_no_python_is_digested_and_runs_nothing(tmp_path: Path) -> None:
    before = set(sys.modules)
    (tmp_path / "own.py").write_text("def f(:\n")
    assert set(digest_files(f"{tmp_path}/own.py:own", None)) == {"own.py"}
    assert set(sys.modules) == before
