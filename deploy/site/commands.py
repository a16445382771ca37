"""Reference of the command line, from the declarations of the commands."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from deploy import cli
from deploy.site.text import code, escape, sentence, table

PAGE = "reference/commands.md"
_HEAD = """\
# Command line

Every command with its options, generated from the declarations; `layerwise COMMAND --help` prints the same.
Exit codes: 0 done; 2 bad usage or configuration; 3 cannot reach or refused; 4 the run failed; 130
interrupted ([errors](../errors.md)). `--debug` before a command shows the traceback with an error.
"""


def render() -> str:
    """Render the page."""
    group = click.Context(cli.cli, info_name="layerwise")
    parts = [_HEAD]
    for name in cli.cli.list_commands(group):
        command = cli.cli.get_command(group, name)
        assert command is not None
        parts += _command(click.Context(command, info_name=name, parent=group), command)
    return "\n".join(parts)


def _command(ctx: click.Context, command: click.Command) -> Iterator[str]:
    yield f"## {ctx.command_path.removeprefix('layerwise ')}\n"
    yield f"```text\n{ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}\n```\n"
    yield escape(inspect.cleandoc(command.help or "")) + "\n"
    options = [param for param in command.params if isinstance(param, click.Option)]
    if records := [record for option in options if (record := option.get_help_record(ctx))]:
        yield table(["option", "meaning"], ([code(names), escape(sentence(text))] for names, text in records))
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _command(click.Context(inner, info_name=name, parent=ctx), inner)
