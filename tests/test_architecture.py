"""Who may import whom: the house of docs/architecture.md, kept by reading every module's imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("protos", "common", "master", "slave", "deploy")

# What the modules of each part may import of the project; of two parts that fit, the longer name counts.
MAY_IMPORT = {
    "protos": ("protos",),
    "common.wire": ("protos", "common"),
    "common": ("common",),
    "master": ("common", "master"),
    "slave": ("common", "slave"),
    "deploy": ("common", "master", "slave", "deploy"),
}
# What the wire stands on: it may not stand on what stands on it.
BELOW_WIRE = ("common.wire", "common.errors", "common.messages", "common.table")

DECIDING = (
    "master.store",
    "master.updates",
    "master.optimizers",
    "master.staleness",
    "master.policies",
    "master.roster",
    "master.synthesis",
    "master.web.history",
    "common.percentiles",
    "common.problems",
    "slave.trainer",
    "slave.free",
    "common.slots",
    "slave.decoupling",
    "slave.unlocks",
    "slave.health",
    "common.draws",
    "slave.layers",
    "slave.served",
    "slave.moments",
    "common.replica",
    "common.schedule",
    "common.narrow",
    "common.synthesizers",
)
DOING = (
    "grpc", "common.wire", "common.rpc", "protos", "click", "time", "datetime", "random", "secrets", "uuid",
    "socket", "asyncio", "select", "selectors", "subprocess", "multiprocessing", "concurrent", "threading",
    "queue", "signal", "os", "pathlib", "shutil", "tempfile", "urllib", "http", "requests",
)  # fmt: skip
# The store's locks: it is used by several threads, and starts none.
ALLOWED = {"master.store": ("threading",)}

WITHOUT_TORCH = (
    "common.bulk",
    "common.config",
    "common.downpour",
    "common.http2",
    "common.settings",
    "common.options",
    "common.errors",
    "common.messages",
    "common.table",
    "common.lifecycle",
    "common.rpc",
    "common.resolution",
    "master",
    "slave.cli",
    "deploy.cli",
    "deploy.commands",
)
# Loaded where M is served, and by nothing that is loaded otherwise.
WITH_TORCH = ("master.synthesis",)
FORBIDDEN_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
FORBIDDEN_CALLS = ("eval", "exec", "compile", "torch.load", "torch.hub.load", "numpy.load", "np.load")


def within(module: str, parts: tuple[str, ...]) -> bool:
    return any((module + ".").startswith(part + ".") for part in parts)


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    top_level: bool


class Tree:
    """The modules of a source tree by their dotted names, and what they import."""

    def __init__(self, root: Path) -> None:
        self.files = {
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
            for package in PACKAGES
            for path in sorted((root / package).rglob("*.py"))
        }

    @cached_property
    def imports(self) -> dict[str, list[Import]]:
        """Every import of every module, those for type checkers alone left out."""
        return {module: list(self._imports(module)) for module in self.files}

    def parsed(self, module: str) -> ast.Module:
        return ast.parse(self.files[module].read_text(encoding="utf-8"))

    def _imports(self, module: str) -> Iterator[Import]:
        def walk(node: ast.AST, top_level: bool) -> Iterator[Import]:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                    yield from (found for other in child.orelse for found in walk(other, top_level))
                elif isinstance(child, ast.Import):
                    yield from (Import(name.name, child.lineno, top_level) for name in child.names)
                elif isinstance(child, ast.ImportFrom):
                    base = self._base(module, child)
                    for name in child.names:
                        inner = f"{base}.{name.name}"
                        yield Import(inner if inner in self.files else base, child.lineno, top_level)
                else:
                    inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                    yield from walk(child, top_level and not inside)

        return walk(self.parsed(module), True)

    def _base(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = module if self.files[module].name == "__init__.py" else module.rpartition(".")[0]
        parts = package.split(".")[: len(package.split(".")) - node.level + 1]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def loaded(self, module: str) -> dict[str, str]:
        """All that importing a module loads, by top-level imports, each with the modules on the way."""
        found: dict[str, str] = {}
        waiting = [(module, module)]
        while waiting:
            name, way = waiting.pop()
            if name in found:
                continue
            found[name] = way
            parents = [name.rpartition(".")[0]] if name in self.files and "." in name else []
            nexts = [i.module for i in self.imports.get(name, []) if i.top_level]
            waiting += [(each, f"{way} -> {each}") for each in [*parents, *nexts]]
        return found


def import_violations(tree: Tree) -> list[str]:
    """Imports against the house's order: protos <- wire <- common <- master, slave <- deploy."""
    found = []
    for module, imports in tree.imports.items():
        part = max((part for part in MAY_IMPORT if within(module, (part,))), key=len)
        for each in imports:
            if within(each.module, PACKAGES):
                allowed = within(each.module, MAY_IMPORT[part])
                if part == "common.wire" and within(each.module, ("common",)):
                    allowed = within(each.module, BELOW_WIRE)
                if not allowed:
                    found.append(f"{module}:{each.line} imports {each.module}")
    return found


def deciding_violations(tree: Tree) -> list[str]:
    """What decides and yet does I/O, reads a clock or draws from the process' own randomness.

    The project's own modules are followed, since what is imported by way of another is used all the same.
    Their paths and locks are no I/O of what decides: of what is far, only the worst counts.
    """
    far = ("grpc", "common.wire", "common.rpc", "protos", "click", "socket", "asyncio", "subprocess", "time")
    found = []
    for module in tree.files:
        if not within(module, DECIDING):
            continue
        for each in tree.imports[module]:
            if within(each.module, DOING) and not within(each.module, ALLOWED.get(module, ())):
                found.append(f"{module}:{each.line} imports {each.module}")
        found += [f"{way}" for name, way in tree.loaded(module).items() if within(name, far)]
    return found


def torch_violations(tree: Tree) -> list[str]:
    """Modules that must answer at once, or run without torch, and yet load it."""
    return [
        way
        for module in tree.files
        if within(module, WITHOUT_TORCH) and not within(module, WITH_TORCH)
        for name, way in tree.loaded(module).items()
        if within(name, ("torch",))
    ]


def unsafe_violations(tree: Tree) -> list[str]:
    """Whatever could run code that came as data."""
    found = []
    for module in tree.files:
        imported = [i for i in tree.imports[module] if within(i.module, FORBIDDEN_MODULES)]
        found += [f"{module}:{each.line} imports {each.module}" for each in imported]
        for node in ast.walk(tree.parsed(module)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
                found.append(f"{module}:{node.lineno} calls {ast.unparse(node.func)}")
            if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.hub", "numpy"):
                found += [
                    f"{module}:{node.lineno} imports load" for name in node.names if name.name == "load"
                ]
    return found


RULES = [import_violations, deciding_violations, torch_violations, unsafe_violations]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: object, tree: Tree) -> None:
    assert callable(rule)
    assert rule(tree) == []


def test_every_module_that_a_rule_names_exists(tree: Tree) -> None:
    for name in {*DECIDING, *WITHOUT_TORCH, *MAY_IMPORT, *BELOW_WIRE}:
        assert any(within(module, (name,)) for module in tree.files), name


# --- the checker itself -----------------------------------------------------------------------------------


def planted(root: Path, **files: str) -> Tree:
    """A small tree; double underscores in a name are the dots of a module."""
    for package in PACKAGES:
        (root / package).mkdir()
        (root / package / "__init__.py").touch()
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return Tree(root)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("master__service", "from slave import trainer"),
        ("slave__session", "import master.store"),
        ("slave__session", "def later():\n    from master.store import Store"),
        ("master__service", "from deploy import cli"),
        ("common__rpc", "import master"),
        ("common__rpc", "from protos import layerwise_pb2"),
        ("master__servicer", "from protos.layerwise_pb2 import Frame"),
        ("deploy__reader", "import protos.layerwise_pb2 as pb"),
        ("protos__extra", "import common"),
        ("common__wire__codec", "from common import rpc"),
        ("common__rpc", "from ..master import store"),
        ("master__service", "try:\n    import slave\nexcept ImportError:\n    pass"),
    ],
)
def test_an_import_against_the_order_is_found(module: str, text: str, tmp_path: Path) -> None:
    assert len(import_violations(planted(tmp_path, **{"common__rpc": "", module: text}))) == 1


def test_imports_in_the_order_and_for_type_checkers_alone_are_not_found(tmp_path: Path) -> None:
    tree = planted(
        tmp_path,
        common__wire__codec="from protos import layerwise_pb2\nfrom common.errors import MalformedError",
        common__errors="",
        common__rpc="from common.wire.codec import encode",
        master__store="import threading\nfrom common import errors",
        deploy__cli="import master.store, slave",
        slave__session="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from master import store",
    )
    assert [rule(tree) for rule in RULES] == [[], [], [], []]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("master__store", "import time"),
        ("master__store", "from time import monotonic"),
        ("master__store", "import grpc"),
        ("master__roster", "import threading"),
        ("master__roster", "from datetime import datetime"),
        ("master__updates", "def f():\n    import socket"),
        ("slave__trainer", "from common.wire import codec"),
        ("common__replica", "import click"),
        ("common__schedule", "import random"),
        ("common__synthesizers__virtual", "from common import clock"),
    ],
)
def test_a_module_that_decides_and_does_is_found(module: str, text: str, tmp_path: Path) -> None:
    tree = planted(tmp_path, **{"common__clock": "import time", "common__wire__codec": "", module: text})
    assert deciding_violations(tree)


def test_torch_behind_two_imports_is_found_and_within_a_function_is_not(tmp_path: Path) -> None:
    files = {"common__flat": "import torch.nn", "common__middle": "from common import flat"}
    assert (
        torch_violations(planted(tmp_path, **files, common__config="def f():\n    import common.middle"))
        == []
    )
    (tmp_path / "common" / "config.py").write_text("from common.middle import flat")
    (violation,) = torch_violations(Tree(tmp_path))
    assert violation == "common.config -> common.middle -> common.flat -> torch.nn"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "eval('1')",
        "exec('1')",
        "def f():\n    import dill",
        "import numpy as np\nnp.load('x')",
    ],
)
def test_what_could_run_data_is_found(text: str, tmp_path: Path) -> None:
    assert unsafe_violations(planted(tmp_path, slave__session=text))


# --- and really -------------------------------------------------------------------------------------------


def loads_torch(*modules: str) -> bool:
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return child.stdout.strip() == "True"


def test_the_command_line_answers_and_the_master_runs_without_torch() -> None:
    assert not loads_torch("deploy.cli", "deploy.commands", "common.config", "slave.cli", "master.service")


def test_a_process_that_does_load_torch_is_noticed() -> None:
    assert loads_torch("common.flat")
