"""Pages that are generated from the code: complete, and with links that lead somewhere."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import click
import pytest

import layerwise
from common.config import settings
from common.config.sections import Config
from common.config.unlocks import UNLOCKS
from deploy import cli
from deploy.guidance.explaining import OPTIONS, list_keys
from deploy.site import commands, configuration, examples, interface, wire
from deploy.site.__main__ import generate
from deploy.site.diagrams import replace_diagrams
from deploy.site.links import move_links
from deploy.site.schedules import Schedule
from deploy.site.text import escape
from protos import layerwise_pb2
from tests.integration.processes import ROOT

FIGURES = dict(generate())


def anchors(page: str) -> set[str]:
    return set(re.findall(r"^#+ .*\{ #(\S+) \}$", page, re.MULTILINE))


def dangling(page: str) -> set[str]:
    return set(re.findall(r"\]\(#([^)]+)\)", page)) - anchors(page)


def test_the_configuration_has_every_key_option_and_value() -> None:
    page = configuration.render()
    sections = {name for name in list_keys() if "." not in name}
    assert sections | settings.keys(Config).keys() <= anchors(page)
    assert dangling(page) == set()
    for _, rows in OPTIONS.values():
        for row in rows.values():
            for key in settings.keys(row.options):
                assert f"| `{key}` | " in page, key
    for unlock in UNLOCKS.values():
        assert f"| `{unlock.name}` | {escape(unlock.help)}" in page


def test_the_command_line_has_every_command_and_option() -> None:
    page = commands.render()
    group = click.Context(cli.cli)
    for name in cli.COMMANDS:
        _, _, part = page.partition(f"\n## {name}\n")
        part = part.partition("\n## ")[0]
        assert f"layerwise {name} " in part
        command = cli.cli.get_command(group, name)
        assert command is not None
        for param in command.params:
            shown = isinstance(param, click.Option) and not param.hidden
            assert not shown or param.opts[-1] in part, (name, param.opts)


def test_the_python_interface_has_every_name_and_nothing_of_a_docstring_s_form_is_left() -> None:
    page = interface.render()
    assert set(layerwise.__all__) == anchors(page)
    assert "### Result.model()" in page
    assert not re.search(r"^\s*(Args|Returns|Raises|Attributes):\s*$", page, re.MULTILINE)
    assert "| `run_dir` | folder of the results; an unfinished run in it is resumed." in page
    outside = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    assert ">>>" not in outside


def test_a_docstring_becomes_paragraphs_examples_and_tables() -> None:
    parts = [
        "Do it.",
        "More.",
        ">>> do()\n1",
        "Args:\n    a: one,\n        two.\n    b: *three*",
        "Returns:\n    It.",
    ]
    text = "\n\n".join(parts)
    assert list(interface.render_docstring(text)) == [
        "Do it.\n",
        "More.\n",
        "```pycon\n>>> do()\n1\n```\n",
        "| argument | meaning |\n| --- | --- |\n| `a` | one, two. |\n| `b` | \\*three\\* |\n",
        "Returns: It.\n",
    ]


def test_the_wire_has_every_message_field_and_number() -> None:
    page = wire.render((ROOT / "protos/layerwise.proto").read_text())
    assert dangling(page) == set()
    file = layerwise_pb2.DESCRIPTOR
    messages = file.message_types_by_name
    assert {*messages, *file.enum_types_by_name, *file.services_by_name} == anchors(page)
    for block in wire.parse((ROOT / "protos/layerwise.proto").read_text()):
        if block.kind == "message":
            fields = {(entry.name, int(entry.cells[1])) for entry in block.entries}
            assert fields == {(field.name, field.number) for field in messages[block.name].fields}
        elif block.kind == "service":
            assert [entry.name for entry in block.entries] == [
                method.name for method in file.services_by_name[block.name].methods
            ]


def test_a_line_of_another_form_in_the_service_descriptions_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: oneof x"):
        wire.parse("message A {\n  oneof x\n}\n")


def test_the_examples_are_shown_as_they_are() -> None:
    page = examples.render(ROOT / "examples")
    for file in (ROOT / "examples").iterdir():
        if file.suffix in (".py", ".toml"):
            assert file.read_text().rstrip() in page
    assert "first.ipynb" in anchors(page)


@pytest.mark.parametrize(
    ("page", "link", "moved"),
    [
        ("python.md", "[a](../examples/first.ipynb)", "[a](examples.md#first.ipynb)"),
        ("how-to/gpu.md", "[a](../../README.md#methods)", "[a](../index.md#methods)"),
        ("index.md", "![a](docs/images/seconds-to-97.png)", "![a](images/seconds-to-97.png)"),
        ("index.md", "[a `b`](docs/faults.md#health)", "[a `b`](faults.md#health)"),
        ("index.md", "[files](deploy/grafana) and", "files and"),
        ("decisions/size.md", "[a](../../tests/test_architecture.py)", "a"),
        ("decisions/size.md", "[a](modules.md)", "[a](modules.md)"),
        ("faults.md", "[a](missing.md)", "[a](missing.md)"),
        ("faults.md", "`x[0](y)` and [b](https://example.org/docs/faults.md)", None),
    ],
)
def test_links_lead_to_the_pages_of_the_site(page: str, link: str, moved: str | None) -> None:
    assert move_links(link, page, ROOT) == (link if moved is None else moved)


def test_the_picture_of_the_rooms_becomes_a_table() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    shown = replace_diagrams(page)
    assert "mermaid" not in shown
    assert re.search(r"^\| \*\*deploy\*\* \| site \| cli, .*commands", shown, re.MULTILINE)
    with pytest.raises(ValueError, match=r"a -\.-> b"):
        replace_diagrams("```mermaid\nflowchart LR\na -.-> b\n```\n")


def test_every_page_has_a_place_in_the_navigation() -> None:
    docs = ROOT / "docs"
    navigation = (ROOT / "mkdocs.yml").read_text()
    decisions = (docs / "decisions/README.md").read_text()
    for page in docs.rglob("*.md"):
        place = page.relative_to(docs).as_posix()
        decided = page.parent.name == "decisions" and f"]({page.name})" in decisions
        assert decided or f": {place}\n" in navigation, f"give {place} a line in mkdocs.yml"


def test_the_build_is_strict() -> None:
    recipe = subprocess.check_output(["make", "-n", "site"], cwd=ROOT, text=True)
    assert "mkdocs build --strict" in recipe
    # mkdocs counts no warnings where it is quiet, and a broken link is a warning.
    assert "quiet" not in recipe.partition("mkdocs")[2]


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.name)
def test_a_checked_in_figure_is_fresh(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FIGURES[path], "run `make figures`"


def waits(schedule: Schedule, layer: int) -> float:
    """Part of the time between a layer's first and last work in which it stands still."""
    spans = sorted((span.start, span.end) for span in schedule.spans if span.layer == layer)
    whole = spans[-1][1] - spans[0][0]
    return 1 - sum(end - start for start, end in spans) / whole


def test_a_layer_works_on_one_thing_at_a_time_in_every_figure() -> None:
    for row in UNLOCKS.values():
        spans = Schedule(row).spans
        for layer in (1, 2, 3):
            times = sorted((span.start, span.end) for span in spans if span.layer == layer)
            assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))


def test_the_figures_show_what_each_unlock_waits_for() -> None:
    none, delayed, update, local, full = (
        Schedule(UNLOCKS[name]) for name in ("none", "delayed", "update", "local", "full")
    )
    every = sorted((span.start, span.end) for span in none.spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(every))
    assert waits(none, 1) > 0.6
    assert waits(delayed, 1) < 0.3
    assert waits(update, 1) == waits(local, 1) == 0
    assert [message for message in local.messages if not message.up] == []
    assert {span.layer for span in full.spans if span.start == 0} == {1, 2, 3}
    assert all(waits(full, layer) == 0 for layer in (1, 2, 3))
