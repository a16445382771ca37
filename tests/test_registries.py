"""Registries: every row has its implementation and the reverse; no code tests the word of a choice."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest

from common.config.cluster import ClusterConfig
from common.config.data import AUGMENTS, DATASETS
from common.config.decoupling import DecouplingConfig
from common.config.downpour import DownpourConfig
from common.config.late import BACKWARDS, CORRECTIONS
from common.config.models import MODELS
from common.config.optimizers import OPTIMIZERS, SERVER_OPTIMIZERS
from common.config.profiles import WIRES
from common.config.pushes import PUSH_PRECISIONS
from common.config.sections import Config
from common.config.settings import keys
from common.config.synthesizers import GRADIENTS, INPUTS
from common.config.tasks import TASKS
from common.config.unlocks import UNLOCKS
from common.data import batches
from common.errors import ConfigError
from common.registry import Registry, Row, import_implementation, module_name
from common.shards.table import WIRE_ITEMSIZES, Precision
from common.wire.precision import PRECISIONS

ROOT = Path(__file__).parents[1]
# Registry, package of its implementations, function that each of these has.
IMPLEMENTED: list[tuple[Registry[Any], str, str]] = [
    (UNLOCKS, "slave.training.unlocks", "build"),
    (BACKWARDS, "slave.training.backwards", "build"),
    (CORRECTIONS, "slave.training.corrections", "build"),
    (OPTIMIZERS, "common.optim.steps", "step"),
    (MODELS, "common.models.builtin", "build"),
    (GRADIENTS, "common.synthesizers.gradients", "build"),
    (INPUTS, "common.synthesizers.inputs", "build"),
    (DATASETS, "common.data.sets", "load"),
    (TASKS, "common.tasks.kinds", "build"),
]


@pytest.mark.parametrize(("registry", "package", "function"), IMPLEMENTED, ids=lambda each: str(each)[:40])
def test_every_row_has_a_module_and_every_module_a_row(
    registry: Registry[Any], package: str, function: str
) -> None:
    folder = Path(str(importlib.import_module(package).__file__)).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert modules == {module_name(name) for name in registry}
    for name in registry:
        assert callable(getattr(import_implementation(package, name), function))


def test_every_wire_precision_has_a_size_and_a_rounding() -> None:
    assert list(WIRES) == list(PRECISIONS) == list(WIRE_ITEMSIZES)


def test_every_precision_of_pushes_has_a_number_on_the_wire() -> None:
    assert [name.upper() for name in PUSH_PRECISIONS] == [each.name for each in Precision]


def test_every_augmentation_but_none_has_a_function() -> None:
    assert {"none", *batches._VARIATIONS} == set(AUGMENTS)


def test_every_key_that_a_row_heeds_exists() -> None:
    known = keys(Config)
    for chooser, field in known.items():
        rule = field.metadata["rule"]
        section = chooser.rpartition(".")[0] + "." + rule.prefix
        for row in rule.registry.values() if rule.registry else ():
            for name in row.heeds:
                full = name if "." in name else section + name
                assert full in known or (full.endswith(".") and any(k.startswith(full) for k in known)), full


def test_rows_have_help_without_a_bracket_that_is_left_open() -> None:
    for field in keys(Config).values():
        rule = field.metadata["rule"]
        for row in rule.registry.values() if rule.registry else ():
            assert row.help
            assert row.help.count("(") == row.help.count(")")


def test_two_rows_of_one_name_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        Registry(Row(name="a", help="one"), Row(name="a", help="two"))


def test_the_masters_optimizers_are_those_that_have_a_rate_there() -> None:
    inner = SERVER_OPTIMIZERS.select(lambda row: not row.outer)
    assert [row.name for row in OPTIMIZERS.values() if row.server_rate] == list(inner)
    assert [row.name for row in SERVER_OPTIMIZERS.values() if row.outer] == ["nesterov"]


def test_a_key_that_the_chosen_row_does_not_heed_is_refused_however_the_configuration_is_made() -> None:
    with pytest.raises(
        ConfigError, match=r'^decoupling\.shrink: unknown key for decoupling\.unlock = "none"'
    ):
        Config(decoupling=DecouplingConfig(unlock="none", shrink=0.5))
    with pytest.raises(ConfigError, match=r'^downpour\.n_push: unknown key for .*profile = "sync'):
        Config(cluster=ClusterConfig(profile="synchronous"), downpour=DownpourConfig(n_push=3))
    with pytest.raises(
        ConfigError, match=r'^cluster\.synthesis: unknown key for decoupling\.unlock = "local"'
    ):
        Config(decoupling=DecouplingConfig(unlock="local"), cluster=ClusterConfig(synthesis="master"))


# --- words ------------------------------------------------------------------------------------------------

# By the last word of a key, which two sections may have: M in depth and in time are both called `gradient`.
CHOICES: dict[str, set[str]] = {"unlock": {"top"}}
for dotted, field in keys(Config).items():
    CHOICES.setdefault(dotted.rpartition(".")[2], set()).update(field.metadata["rule"].registry or ())
CHOICES = {name: words for name, words in CHOICES.items() if words}


def comparisons_with_words(source: str) -> list[str]:
    """Comparisons of an attribute or variable that is named after a choice with words of its rows."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        names = {getattr(side, "attr", getattr(side, "id", "")) for side in sides}
        words = {
            each.value
            for side in sides
            for each in ast.walk(side)
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        }
        found += [ast.unparse(node) for name in names & CHOICES.keys() if words & CHOICES[name]]
    return found


@pytest.mark.parametrize(
    "source",
    [
        'config.decoupling.unlock == "full"',
        'x = 1 if unlock in ("none", "delayed") else 2',
        'if "basic" != cluster.profile: pass',
        'self.name == "adagrad"',
    ],
)
def test_a_comparison_with_a_word_is_found(source: str) -> None:
    assert comparisons_with_words(source)


def test_no_code_tests_the_word_of_a_choice() -> None:
    packages = ("common", "master", "slave", "deploy")
    found = {
        str(path.relative_to(ROOT)): words
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if (words := comparisons_with_words(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_rows_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        UNLOCKS["none"].waits = False  # type: ignore[misc]
