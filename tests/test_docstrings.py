"""Docstrings of the public names: all are there, with shapes, units of times, errors, and sources of methods.

ruff's rules hold the style. A method's contract may also stand in its class, in the method of a base, or in
the method of that name of a protocol.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("layerwise", "common", "master", "slave", "deploy")
Function = ast.FunctionDef | ast.AsyncFunctionDef
# Annotations around tensors that have no shape of their own: states by name, and functions.
OPEN = {"dict", "Mapping", "Callable"}
SHAPE = re.compile(
    r"\([A-Za-z0-9_*. +]+, ?[^)]*\)|\((B|K|n|nbytes)\b|\b(shapes?|shaped|forms?|scalars?)\b|\bnumber\b"
)
# Pointer to another docstring.
REFERENCE = re.compile(r"\b([Aa]rguments|errors)\b[^.;]*\bas of `")
# Names of times that do not tell the unit, as `wait_seconds` does.
TIMES = re.compile(r"(^|_)(age|delay|interval|now|patience|pause|period|silence|timeout|wait)$")
UNIT = re.compile(r"seconds|\ba second\b|clock")


# Folders with a module for each method; modules without a paper are this project's own, or the plain way.
METHODS = (
    "slave/training/unlocks",
    "slave/training/alignments",
    "slave/training/backwards",
    "slave/training/corrections",
    "common/synthesizers/gradients",
    "common/synthesizers/time",
    "common/optim/steps",
)
OWN = {"none", "alignment", "stored", "proximal", "module"}


@dataclass(frozen=True)
class Named:
    """A public function or class.

    Attributes:
        where: file, line and name, for people.
        node: its definition.
        owner: class of a method.
    """

    where: str
    node: Function | ast.ClassDef
    owner: ast.ClassDef | None

    @property
    def is_command(self) -> bool:
        """Whether this is a subcommand, whose docstring is its help."""
        return any(re.search(r"\.(command|group)\(", ast.unparse(each)) for each in self.node.decorator_list)

    @cached_property
    def contract(self) -> str:
        """Docstrings that tell of this: its own, and for a method those of its class, bases and protocols."""
        found: list[Function | ast.ClassDef] = [self.node]
        if self.owner is not None:
            found += lineage(self.owner)
            for one in [*lineage(self.owner), *protocols()]:
                found += [
                    each for each in one.body if isinstance(each, Function) and each.name == self.node.name
                ]
        return "\n".join(ast.get_docstring(each) or "" for each in found)


@cache
def modules() -> dict[str, ast.Module]:
    files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in files}


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Classes by name; of several with a name one stands for all."""
    return {
        each.name: each
        for tree in modules().values()
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef)
    }


def lineage(one: ast.ClassDef) -> list[ast.ClassDef]:
    """A class and its bases in this project."""
    names = [getattr(base, "id", "") for base in one.bases]
    above = [classes()[name] for name in names if name in classes() and classes()[name] is not one]
    return [one, *(each for base in above for each in lineage(base))]


@cache
def protocols() -> list[ast.ClassDef]:
    return [each for each in classes().values() if "Protocol" in map(ast.unparse, each.bases)]


@cache
def named() -> list[Named]:
    def look(body: list[ast.stmt], path: str, owner: ast.ClassDef | None) -> Iterator[Named]:
        for node in body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                name = f"{owner.name}.{node.name}" if owner else node.name
                yield Named(f"{path}:{node.lineno} {name}", node, owner)
                if isinstance(node, ast.ClassDef):
                    yield from look(node.body, path, node)

    return [each for path, tree in modules().items() for each in look(tree.body, path, None)]


def functions() -> Iterator[tuple[Named, Function]]:
    return ((each, each.node) for each in named() if isinstance(each.node, Function))


def arguments(function: Function) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def has_tensor(annotation: ast.AST | None) -> bool:
    if annotation is None or (
        isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in OPEN
    ):
        return False
    if isinstance(annotation, ast.Name | ast.Attribute) and ast.unparse(annotation) in (
        "Tensor",
        "torch.Tensor",
    ):
        return True
    return any(map(has_tensor, ast.iter_child_nodes(annotation)))


def visible(body: list[ast.stmt]) -> Iterator[tuple[ast.AST, frozenset[str]]]:
    """Yield what a function itself does, with the names of errors that it handles there."""
    stack: list[tuple[ast.AST, frozenset[str]]] = [(each, frozenset()) for each in body]
    while stack:
        node, handled = stack.pop()
        if isinstance(node, Function | ast.ClassDef | ast.Lambda):
            continue
        yield node, handled
        if isinstance(node, ast.Try):
            types = [each.type or ast.Name("BaseException") for each in node.handlers]
            caught = frozenset(
                name.id for each in types for name in ast.walk(each) if isinstance(name, ast.Name)
            )
            stack += [(each, handled | caught) for each in node.body]
            rest = [*node.handlers, *node.orelse, *node.finalbody]
            stack += [(each, handled) for each in rest]
        elif isinstance(node, ast.With | ast.AsyncWith):
            stack += [(each, handled) for each in node.items]
            stack += [(each, handled | suppressed(node)) for each in node.body]
        else:
            stack += [(each, handled) for each in ast.iter_child_nodes(node)]


def family(error: str) -> set[str]:
    """Names by which an error may be announced or caught; empty for other errors than this project's."""
    known = {each.name for each in lineage(classes()[error])} if error in classes() else set()
    return {*known, "Exception", "BaseException"} if "LayerwiseError" in known else set()


@cache
def promised() -> dict[str, frozenset[str]]:
    """Errors that public functions of modules announce, by the names that one function alone has."""
    found: dict[str, list[frozenset[str]]] = {}
    for each, function in functions():
        if each.owner is None:
            told = (ast.get_docstring(function) or "").partition("Raises:")[2]
            errors = frozenset(re.findall(r"^\s*(\w+): ", told, re.MULTILINE))
            found.setdefault(function.name, []).append(errors)
    return {name: errors[0] for name, errors in found.items() if len(errors) == 1}


def suppressed(node: ast.With | ast.AsyncWith) -> frozenset[str]:
    """Names of the errors that a `with` statement suppresses."""
    calls = [each.context_expr for each in node.items if isinstance(each.context_expr, ast.Call)]
    return frozenset(
        ast.unparse(error) for call in calls if "suppress" in ast.unparse(call.func) for error in call.args
    )


def raised(function: Function, private: dict[str, Function], seen: frozenset[str] = frozenset()) -> set[str]:
    """Errors of this project that a function raises.

    By itself, by private functions of its module, or by public functions that announce them.
    """
    found: set[str] = set()
    own = {each.arg for each in arguments(function)}
    for node, handled in visible(function.body):
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            errors = {ast.unparse(error)}
        elif isinstance(node, ast.Call):
            callee = ast.unparse(node.func).removeprefix("self.")
            known = private.get(callee) if callee not in seen else None
            named_alone = isinstance(node.func, ast.Name) and callee not in seen | own
            errors = set(promised().get(callee, ())) if named_alone else set()
            errors |= raised(known, private, seen | {callee}) if known else set()
        else:
            continue
        found |= {error for error in errors if family(error) and not family(error) & handled}
    return found


def test_every_public_name_has_a_docstring() -> None:
    bare = [path for path, tree in modules().items() if not ast.get_docstring(tree)]
    bare += [each.where for each in named() if not ast.get_docstring(each.node)]
    assert bare == []


def test_functions_of_tensors_tell_shapes() -> None:
    assert [
        each.where
        for each, function in functions()
        if not REFERENCE.search(each.contract)
        and any(map(has_tensor, [*(one.annotation for one in arguments(function)), function.returns]))
        and not SHAPE.search(each.contract)
    ] == []


def test_times_without_a_unit_in_the_name_tell_it() -> None:
    assert [
        f"{each.where}({one.arg})"
        for each, function in functions()
        for one in arguments(function)
        if TIMES.search(one.arg)
        and one.annotation is not None
        and "float" in ast.unparse(one.annotation)
        and not UNIT.search(each.contract)
        and not each.is_command
    ] == []


def test_functions_that_raise_tell_errors() -> None:
    silent = []
    for path, tree in modules().items():
        private = {
            each.name: each
            for each in ast.walk(tree)
            if isinstance(each, Function) and each.name.startswith("_")
        }
        for each, function in functions():
            if each.where.startswith(f"{path}:") and not each.is_command:
                for error in sorted(raised(function, private)):
                    told = set(re.findall(r"\w+", each.contract.partition("Raises")[2]))
                    announced = family(error) & told
                    # One kind stands for the errors that a callee does not name.
                    if error == "LayerwiseError":
                        announced |= {word for word in told if "LayerwiseError" in family(word)}
                    if not (announced or REFERENCE.search(each.contract)):
                        silent.append(f"{each.where}: {error}")
    assert silent == []


@pytest.mark.parametrize("folder", METHODS)
def test_methods_name_their_sources(folder: str) -> None:
    found = {
        path: ast.get_docstring(tree) or ""
        for path, tree in modules().items()
        if path.startswith(f"{folder}/")
    }
    methods = {path: text for path, text in found.items() if Path(path).stem not in {"__init__", *OWN}}
    assert methods
    assert [path for path, text in methods.items() if not re.search(r"\b(19|20)\d\d\b", text)] == []


def test_this_test_sees_what_is_missing() -> None:
    tree = ast.parse(
        "def f(x: Tensor) -> dict[str, Tensor]:\n"
        "    try:\n"
        "        _g()\n"
        "    except OSError:\n"
        "        raise ConfigError('')\n"
        "def _g():\n"
        "    raise FencedError\n"
    )
    f, g = (each for each in tree.body if isinstance(each, Function))
    assert (has_tensor(arguments(f)[0].annotation), has_tensor(f.returns)) == (True, False)
    assert raised(f, {"_g": g}) == {"ConfigError", "FencedError"}
    calling = ast.parse(
        "def f(address: str, is_plain: bool) -> None:\n"
        "    with suppress(FencedError):\n"
        "        split_address(address)\n"
        "    with suppress(ConfigError):\n"
        "        check_listen(address, is_plain)\n"
    )
    (function,) = (each for each in calling.body if isinstance(each, Function))
    assert raised(function, {}) == {"ConfigError"}
