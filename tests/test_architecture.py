"""House of docs/architecture.md: rooms, arrows and what stays out, read from every module's imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("protos", "common", "master", "slave", "deploy", "layerwise")
PICTURE = ROOT / "docs" / "architecture.md"
MOST_LINES = 400

# What the modules of each part may import of the project; of two parts that fit, the longer name counts.
MAY_IMPORT = {
    "protos": ("protos",),
    "common.wire": ("protos", "common"),
    "common": ("common",),
    "master": ("common", "master"),
    "slave": ("common", "slave"),
    "deploy": ("common", "master", "slave", "deploy"),
    "layerwise": ("common", "deploy", "layerwise"),
}
# The wire stands on these rooms and may not import what stands on it.
BELOW_WIRE = ("common.wire", "common.bounds", "common.errors", "common.shards", "common.signals")
# Arrows that no picture may ever allow: module, then what it must not reach, by any number of imports.
NEVER = {
    "slave.training": ("slave.network", "grpc", "socket", "asyncio"),
    "master.store": ("grpc", "master.disk", "mmap", "shutil", "tempfile"),
    "master.roster": ("grpc", "master.disk", "master.store"),
    "master.run": ("grpc", "master.disk", "master.store"),
    "master.disk": ("grpc", "master.run", "master.service"),
    "master.web": ("grpc", "master.run", "master.service"),
}

DECIDING = (
    "common.data.levels",
    "common.data.replicas",
    "common.data.stages",
    "common.draws",
    "common.observe.percentiles",
    "common.observe.problems",
    "common.observe.standstill",
    "common.optim",
    "common.shards.working_copy",
    "common.slots",
    "common.synthesizers",
    "common.tasks",
    "common.wire.boundary",
    "common.wire.messages",
    "common.wire.precision",
    "common.wire.signals",
    "master.agreement",
    "master.balance",
    "master.curriculum",
    "master.effects",
    "master.leases",
    "master.placing",
    "master.progress",
    "master.parameters",
    "master.resizing",
    "master.restoration",
    "master.roster",
    "master.run",
    "master.seating",
    "master.standing",
    "master.store",
    "master.stores",
    "master.synthesis.served",
    "master.tally",
    "master.waiting",
    "master.web.history",
    "slave.training",
)
DOING = (
    "grpc", "common.wire.codec", "common.wire.payloads", "common.net", "protos", "click", "time", "datetime",
    "random", "secrets", "uuid", "socket", "asyncio", "select", "selectors", "subprocess", "multiprocessing",
    "concurrent", "threading", "queue", "signal", "os", "pathlib", "shutil", "tempfile", "urllib", "http",
    "requests",
)  # fmt: skip
# Several threads use these: they take locks, and start no thread.
ALLOWED = {"master.store": ("threading",), "master.tally": ("threading",)}

WITHOUT_TORCH = (
    "common.config",
    "common.cores",
    "common.errors",
    "common.lifecycle",
    "common.models.resolution",
    "common.net",
    "common.shards.assembly",
    "common.shards.pushes",
    "common.shards.table",
    "common.wire.boundary",
    "common.wire.messages",
    "common.wire.payloads",
    "master",
    "slave.cli",
    "deploy.cli",
    "deploy.commands",
    "deploy.doctor",
    "deploy.interface",
    "layerwise",
)
# Loaded where M is served, and by nothing that is loaded otherwise.
WITH_TORCH = ("master.synthesis.served",)
FORBIDDEN_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
FORBIDDEN_CALLS = ("eval", "exec", "compile", "torch.load", "torch.hub.load", "numpy.load", "np.load")

# These may call torch.load, which then builds nothing but tensors.
WEIGHTS_ONLY = ("common.models.initial",)

# Ways to start a thread or a task; common.supervision has those for long-lived work.
STARTS = (
    "Thread", "Timer", "start_new_thread", "ThreadPoolExecutor", "ProcessPoolExecutor", "run_in_executor",
    "to_thread", "ensure_future", "create_task", "TaskGroup",
)  # fmt: skip
# Further places, each with the reason for which an error there is seen.
SEEN_ELSEWHERE = {
    "common.supervision": "starts what it supervises",
    "common.data.prefetch": "the request for a batch raises the error",
    "common.net.callback": "a check that is not greeted says so",
    "common.net.data.pairs": "the reader of a call closes the outbox, and the call raises the error",
    "common.net.data.incoming": "the reader of a call ends with the call",
    "common.net.data.streams": "the parts of a call end with the call",
    "common.net.http2.loop_pipe": "the reader of a connection notices a writer's loss",
    "common.net.tasks": "the caller waits, and raises the first error",
    "deploy.doctor.runner": "the runner reports the end of a check, or that it does not end",
    "deploy.train": "the watching loop takes the evaluation's result",
    "master.disk.state": "a write's caller waits for the result; the run does not depend on its event log",
    "master.ledger": "each reply waits for its write",
    "master.disk.scheduler": "the caller of each job waits for the result",
    "master.service": "the stop waits for the data port",
    "master.disk.shelves": "the caller of each job waits for the result",
    "master.storing.service": "the first error of a part ends the store",
    "master.servicers.parameters": "the push waits for its receiver",
    "master.synthesis.thread": "the call waits for the answer",
    "slave.network.client": "each heartbeat waits for its calls, and cancels the slower one",
    "slave.network.links": "the links wait for every call, and end the lease with the first error",
    "slave.network.network": "an error comes into the inbox and ends the lease",
}


def within(module: str, parts: tuple[str, ...]) -> bool:
    return any((module + ".").startswith(part + ".") for part in parts)


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    top_level: bool
    for_types: bool = False


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
        return {
            module: [each for each in found if not each.for_types] for module, found in self.written.items()
        }

    @cached_property
    def written(self) -> dict[str, list[Import]]:
        """Every import as it is written, those for type checkers with it."""
        return {module: list(self._imports(module)) for module in self.files}

    def parsed(self, module: str) -> ast.Module:
        return ast.parse(self.files[module].read_text(encoding="utf-8"))

    def _imports(self, module: str) -> Iterator[Import]:
        def imported(node: ast.AST, top_level: bool, for_types: bool) -> Iterator[Import]:
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                for each in node.body:
                    yield from imported(each, top_level, True)
                for each in node.orelse:
                    yield from imported(each, top_level, for_types)
            elif isinstance(node, ast.Import):
                yield from (Import(name.name, node.lineno, top_level, for_types) for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                for name in node.names:
                    inner = f"{base}.{name.name}"
                    yield Import(inner if inner in self.files else base, node.lineno, top_level, for_types)
            else:
                inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for child in ast.iter_child_nodes(node):
                    yield from imported(child, top_level and not inside, for_types)

        return imported(self.parsed(module), True, False)

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


class Picture:
    """The rooms and arrows that a mermaid flowchart draws: `subgraph` names a package, a label its rooms."""

    def __init__(self, text: str) -> None:
        self.rooms: dict[str, str] = {}
        self.arrows: dict[str, set[str]] = {}
        package = ""
        for line in text.splitlines():
            if started := re.fullmatch(r"\s*subgraph (\w+).*", line):
                package = started[1] + "."
            elif line.strip() == "end":
                package = ""
            elif node := re.fullmatch(r'\s*(\w+)\["([^"]+)"\]', line):
                for name in node[2].split(", "):
                    self.rooms[package + name] = node[1]
            elif arrow := re.fullmatch(r"\s*([\w &]+?) --> ([\w &]+)", line):
                for above in arrow[1].split(" & "):
                    self.arrows.setdefault(above, set()).update(arrow[2].split(" & "))

    def room(self, module: str) -> str | None:
        """The node that a module belongs to; None for a package's own `__init__`."""
        return next((self.rooms[name] for name in self.rooms if within(module, (name,))), None)

    def reach(self, room: str, without: str | None = None) -> set[str]:
        """All nodes that a room's arrows lead to, on every way but the direct one to `without`."""
        found: set[str] = set()
        waiting = [each for each in self.arrows.get(room, ()) if each != without]
        while waiting:
            each = waiting.pop()
            if each not in found:
                found.add(each)
                waiting += self.arrows.get(each, ())
        return found

    def circles(self) -> list[str]:
        """Rooms that lead back to themselves."""
        return [room for room in self.arrows if room in self.reach(room)]


def picture_violations(tree: Tree) -> list[str]:
    """Imports that the picture has no arrows for, arrows that no import needs, modules in no room."""
    picture = Picture(PICTURE.read_text(encoding="utf-8"))
    found = [f"{room} leads back to itself" for room in picture.circles()]
    used: dict[str, set[str]] = {}
    for module, imports in tree.written.items():
        room = picture.room(module)
        if room is None and module not in PACKAGES:
            found.append(f"{module} is in no room of the picture")
        for each in imports:
            other = picture.room(each.module) if within(each.module, PACKAGES) else None
            if room is None or other is None or other == room:
                continue
            used.setdefault(room, set()).add(other)
            if other not in picture.reach(room):
                found.append(f"{module}:{each.line} imports {each.module}: no arrow from {room} to {other}")
    for room, others in picture.arrows.items():
        for other in others:
            if other not in used.get(room, ()):
                found.append(f"no import needs the arrow from {room} to {other}")
            elif other in picture.reach(room, without=other):
                found.append(f"the arrow from {room} to {other} says what others say already")
    return found


def circle_violations(tree: Tree) -> list[str]:
    """Modules that import each other in a circle, through imports for type checkers too."""
    arrows = {
        module: {each.module for each in imports if each.module in tree.files and each.module != module}
        for module, imports in tree.written.items()
    }
    found = []
    for module in arrows:
        waiting, seen = list(arrows[module]), set[str]()
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting += arrows.get(each, ())
        if module in seen:
            found.append(f"{module} imports itself by way of others")
    return found


def never_violations(tree: Tree) -> list[str]:
    """Imports, over any number of modules, that are never allowed."""
    return [
        way
        for room, others in NEVER.items()
        for module in tree.files
        if within(module, (room,))
        for name, way in tree.loaded(module).items()
        if within(name, others)
    ]


def size_violations(tree: Tree) -> list[str]:
    """Files that are too long to hold in mind; generated code aside."""
    return [
        f"{module} has {lines} lines"
        for module, path in tree.files.items()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
        and not within(module, ("protos",))
    ]


def import_violations(tree: Tree) -> list[str]:
    """Imports against the order of packages: protos, wire, common, master and slave, deploy, layerwise."""
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
    far = (
        "grpc", "common.wire.codec", "common.net", "protos", "click", "socket", "asyncio", "subprocess",
        "time",
    )  # fmt: skip
    found = []
    for module in tree.files:
        if not within(module, DECIDING):
            continue
        for each in tree.imports[module]:
            allowed = [name for part, names in ALLOWED.items() if within(module, (part,)) for name in names]
            if within(each.module, DOING) and not within(each.module, tuple(allowed)):
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
                if module in WEIGHTS_ONLY and "weights_only=True" in map(ast.unparse, node.keywords):
                    continue
                found.append(f"{module}:{node.lineno} calls {ast.unparse(node.func)}")
            if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.hub", "numpy"):
                found += [
                    f"{module}:{node.lineno} imports load" for name in node.names if name.name == "load"
                ]
    return found


def starts(tree: Tree, module: str) -> list[int]:
    """Lines of a module that start a thread or a task."""
    calls = [node for node in ast.walk(tree.parsed(module)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if ast.unparse(call.func).rpartition(".")[2] in STARTS]


def supervision_violations(tree: Tree) -> list[str]:
    """Threads and tasks that may die unseen."""
    return [
        f"{module}:{line} starts a thread or task without supervision"
        for module in tree.files
        if module not in SEEN_ELSEWHERE
        for line in starts(tree, module)
    ]


RULES = [
    import_violations,
    circle_violations,
    never_violations,
    deciding_violations,
    torch_violations,
    unsafe_violations,
    supervision_violations,
]
# These hold for the whole project alone: a planted tree has no picture.
WHOLE = [picture_violations, size_violations]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES + WHOLE, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(rule: object, tree: Tree) -> None:
    assert callable(rule)
    assert rule(tree) == []


def test_every_module_is_part_of_what_an_installation_copies(tree: Tree) -> None:
    """A folder without `__init__.py` can be imported from the sources alone."""
    without = {path.parent for path in tree.files.values() if not (path.parent / "__init__.py").exists()}
    assert without == set()


def test_every_module_that_a_rule_names_exists(tree: Tree) -> None:
    for name in {*DECIDING, *WITHOUT_TORCH, *MAY_IMPORT, *BELOW_WIRE, *NEVER}:
        assert any(within(module, (name,)) for module in tree.files), name


def test_every_exception_from_supervision_is_needed(tree: Tree) -> None:
    assert [module for module in SEEN_ELSEWHERE if not starts(tree, module)] == []


# --- the checker itself -----------------------------------------------------------------------------------


def planted(root: Path, **files: str) -> Tree:
    """A small tree; double underscores in a name are the dots of a module."""
    for package in PACKAGES:
        (root / package).mkdir()
        (root / package / "__init__.py").touch()
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(exist_ok=True, parents=True)
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
    assert [rule(tree) for rule in RULES] == [[] for _ in RULES]


def test_a_circle_is_found_though_it_is_for_type_checkers_alone(tmp_path: Path) -> None:
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from common import second"
    files = {"common__first": typed, "common__second": "from common import third"}
    assert circle_violations(planted(tmp_path, **files, common__third="")) == []
    (tmp_path / "common" / "third.py").write_text("def late():\n    from common.first import name")
    assert len(circle_violations(Tree(tmp_path))) == 3


@pytest.mark.parametrize("text", ["import grpc", "from master.disk import state", "from common import far"])
def test_a_store_that_comes_to_files_or_grpc_is_found(text: str, tmp_path: Path) -> None:
    tree = planted(tmp_path, common__far="import mmap", master__disk__state="", master__store=text)
    assert never_violations(tree)


PICTURE_OF_TWO = """
    subgraph common
        ground["errors, draws"]
        wire["wire"]
    end
    subgraph master
        store["store"]
    end
    store --> wire
    wire --> ground
"""


def test_a_picture_is_read_with_its_rooms_and_arrows() -> None:
    picture = Picture(PICTURE_OF_TWO)
    names = ("common.draws", "common.wire.codec", "master.store", "slave")
    assert [picture.room(name) for name in names] == ["ground", "wire", "store", None]
    assert picture.reach("store") == {"wire", "ground"}
    assert picture.reach("store", without="wire") == set()
    assert picture.circles() == []
    assert sorted(Picture(PICTURE_OF_TWO + "    ground --> store\n").circles()) == ["ground", "store", "wire"]


@pytest.mark.parametrize(
    ("extra", "arrow", "wrong"),
    [
        ("from master.store import shards", "", "no arrow from ground to store"),
        ("", "    store --> ground", "says what others say already"),
        ("", "    wire --> store", "leads back to itself"),
    ],
)
def test_a_picture_that_differs_from_the_imports_is_found(
    extra: str, arrow: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = planted(
        tmp_path,
        common__errors="",
        common__draws=extra,
        common__wire__codec="from common import errors",
        master__store__shards="from common import errors\nfrom common.wire import codec",
    )
    monkeypatch.setattr(sys.modules[__name__], "PICTURE", tmp_path / "picture.md")
    (tmp_path / "picture.md").write_text(PICTURE_OF_TWO + arrow + "\n")
    assert any(wrong in each for each in picture_violations(tree))


def test_a_picture_that_is_right_passes_and_an_arrow_too_many_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = planted(
        tmp_path,
        common__errors="",
        common__wire__codec="from common import errors",
        master__store__shards="from common.wire import codec",
    )
    monkeypatch.setattr(sys.modules[__name__], "PICTURE", tmp_path / "picture.md")
    (tmp_path / "picture.md").write_text(PICTURE_OF_TWO)
    assert picture_violations(tree) == []
    (tmp_path / "master" / "store" / "shards.py").write_text("")
    assert picture_violations(Tree(tmp_path)) == ["no import needs the arrow from store to wire"]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("master__store", "import time"),
        ("master__store", "from time import monotonic"),
        ("master__store", "import grpc"),
        ("master__roster", "import threading"),
        ("master__roster", "from datetime import datetime"),
        ("master__store__updates", "def f():\n    import socket"),
        ("slave__training__trainer", "from common.wire import codec"),
        ("common__shards__working_copy", "import click"),
        ("common__optim", "import random"),
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
        "import torch\ntorch.load('x', weights_only=True)",
        "eval('1')",
        "exec('1')",
        "def f():\n    import dill",
        "import numpy as np\nnp.load('x')",
    ],
)
def test_what_could_run_data_is_found(text: str, tmp_path: Path) -> None:
    assert unsafe_violations(planted(tmp_path, slave__session=text))


@pytest.mark.parametrize(
    "text",
    [
        "import threading\nthreading.Thread(target=print).start()",
        "from threading import Timer\nTimer(1, print).start()",
        "import asyncio\nasyncio.create_task(work())",
        "async def f(loop):\n    loop.run_in_executor(None, print)",
        "from concurrent.futures import ThreadPoolExecutor as Pool\nfrom concurrent import futures\n"
        "futures.ThreadPoolExecutor(1)",
    ],
)
def test_a_start_without_supervision_is_found(text: str, tmp_path: Path) -> None:
    assert len(supervision_violations(planted(tmp_path, slave__session=text))) == 1


# --- and really -------------------------------------------------------------------------------------------


def loads_torch(*modules: str) -> bool:
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return child.stdout.strip() == "True"


def test_the_command_line_answers_and_the_master_runs_without_torch() -> None:
    assert not loads_torch(
        "deploy.cli", "deploy.commands", "common.config.files", "slave.cli", "master.service"
    )


def test_a_process_that_does_load_torch_is_noticed() -> None:
    assert loads_torch("common.shards.flat")


def test_weights_alone_are_loaded_where_a_user_gives_them(tmp_path: Path) -> None:
    text = "import torch\ntorch.load('x', weights_only={})"
    file = {"common__models__initial": text.format(True)}
    assert unsafe_violations(planted(tmp_path, **file)) == []
    (tmp_path / "common" / "models" / "initial.py").write_text(text.format(False))
    assert unsafe_violations(Tree(tmp_path))
