"""Commands, configurations and snippets of every page can be what the page says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from common.config import files
from deploy import cli
from deploy.guidance.explaining import OTHER_PAGE, PAGES
from tests.docs.blocks import DOCS, ROOT, WALKED, Block, Command, read_blocks

PAGES_OF_THE_REPOSITORY = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted(DOCS.rglob("*.md")),
]
BLOCKS = [block for page in PAGES_OF_THE_REPOSITORY for block in read_blocks(page)]
COMMANDS = [
    (block, command) for block in BLOCKS if block.language == "console" for command in block.commands()
]
OURS = [pair for pair in COMMANDS if pair[1].words[:1] == ["layerwise"]]
ORDERS = {"set", "replace", "file", "after", "apart", "skip"}


def of(language: str, pages: list[Path] = PAGES_OF_THE_REPOSITORY) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and block.page in pages]


def test_the_pages_have_commands_and_snippets_of_every_kind() -> None:
    subcommands = {command.words[1] for _, command in OURS}
    assert subcommands >= cli.COMMANDS.keys() - {"completion"}
    assert {block.page for block in BLOCKS} >= set(WALKED)
    assert {order for block in BLOCKS for order in block.orders} <= ORDERS


@pytest.mark.parametrize(("block", "command"), OURS, ids=lambda value: str(value)[:60])
def test_a_command_has_the_options_and_keys_that_the_page_gives(block: Block, command: Command) -> None:
    words = [word.rstrip(";") for word in command.words]
    words = words[: words.index(">")] if ">" in words else words
    name, *arguments = words[1:]
    group = click.Context(cli.cli, info_name="layerwise")
    subcommand = cli.cli.get_command(group, name)
    assert subcommand is not None, name
    if isinstance(subcommand, click.Group):
        group = click.Context(subcommand, info_name=name, parent=group)
        name, *arguments = arguments
        subcommand = subcommand.commands[name]
    ctx = subcommand.make_context(name, arguments, parent=group)
    overrides = list(ctx.params.get("overrides", ()))
    if name in ("train", "simulate", "config") and "config" not in {k for k, v in ctx.params.items() if v}:
        files.load(None, overrides)


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_a_configuration_is_accepted(block: Block) -> None:
    files.build(tomllib.loads(block.content), [], None)


@pytest.mark.parametrize("block", of("python", WALKED), ids=str)
def test_a_snippet_is_python(block: Block) -> None:
    compile(re.sub(r"^%%.*$", "", block.content, flags=re.MULTILINE), str(block), "exec")


def test_every_block_of_a_walked_page_is_run_or_skipped_for_a_reason() -> None:
    for block in BLOCKS:
        if block.page in WALKED:
            assert block.language in ("console", "python", "toml"), block
        for order in {"skip", "apart"} & block.orders.keys():
            assert block.orders[order].startswith("since "), block


def test_pages_that_the_program_names_exist() -> None:
    named = {page.partition("#")[0] for page in (*PAGES.values(), OTHER_PAGE, *cli.ERROR_PAGES.values())}
    for folder in ("common", "master", "slave", "deploy", "layerwise"):
        for file in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r"\bdocs/[\w/-]+\.md\b", file.read_text(encoding="utf-8")))
    assert len(named) > 5
    assert [page for page in named if not (ROOT / page).exists()] == []
