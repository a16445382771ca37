"""Subcommands of the first hour: init, explain, runs, open, completion."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from common import strict_json
from common.config.options import PLACE, json_option
from common.errors import ConfigError
from common.text import answer, say

WIDTH_OF_PIPES = 400


def complete_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Complete the name of a key, for click."""
    from deploy.guidance.explaining import list_keys

    return [CompletionItem(name) for name in list_keys() if name.startswith(incomplete)]


@click.command()
@click.argument("folder", default=".", type=PLACE)
def init(folder: Path) -> None:
    """Write a configuration, a network and data that train, to begin your own from.

    FOLDER gets run.toml, my_network.py and my_data.py; by default the current folder does. Nothing is
    overwritten.
    """
    from deploy.guidance.starting import write_starter

    paths = write_starter(folder)
    say(f"wrote {', '.join(map(str, paths))}")
    say(f"train with: layerwise train {shlex.quote(str(paths[0]))}")


@click.command()
@click.argument("key", shell_complete=complete_keys)
def explain(key: str) -> None:
    """Explain a configuration key: meaning, default, values, who heeds it, page of the documentation.

    KEY is section.key, or the key alone where one section has it; a section lists its keys.
    """
    from deploy.guidance.explaining import explain as describe

    for line in describe(key):
        answer(line)


@click.command()
@click.argument("folder", default="runs", type=PLACE)
@json_option
def runs(folder: Path, as_json: bool) -> None:
    """List the runs of this machine: those in FOLDER, and those of living masters anywhere.

    A run is training, finished, or stopped before its end. FOLDER is by default runs, where commands put
    new runs.
    """
    from rich.table import Table

    from common.observe import measures
    from deploy.console import PlainConsole
    from deploy.runs.listing import list_runs, shorten

    found = list_runs(folder)
    if as_json:
        answer(strict_json.encode([dataclasses.asdict(run) for run in found]))
        return
    if not found:
        say(f"no runs in {folder}, and no master lives on this machine")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("state", "batches", "result", "began", "run", "live page"):
        table.add_column(title, no_wrap=title != "run", overflow="fold")
    for run in found:
        name, value = next(iter(run.metrics.items()), ("", None))
        result = f"{measures.title(name)} {measures.format_value(name, value)}" if name else "-"
        batches = f"{run.batches:,}/{run.of_batches:,}" if run.of_batches else "-"
        table.add_row(run.state, batches, result, run.began, shorten(run.path), run.page or "")
    console = PlainConsole()
    # A file or a pipe has no width, and folded paths are of no use there.
    (console if console.is_terminal else PlainConsole(width=WIDTH_OF_PIPES)).print(table)


@click.command("open")
@click.argument("run")
def open_run(run: str) -> int:
    """Open the page of a run in the browser, and print its address.

    RUN is a run directory, or the folder of a comparison or an analysis; or its name under runs/. A run that
    trains has its live page, a comparison compare.html, an analysis analysis.html; a finished run gets its
    page, run.html, first.
    """
    from deploy.guidance.opening import open_page

    return open_page(run)


open = open_run  # noqa: A001 - the command's name


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: commands, options, keys, files.

    In bash: eval "$(layerwise completion bash)"; zsh likewise; in fish: layerwise completion fish | source.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"completion {shell}: this version of click has none for this shell")
    script = kind(
        click.get_current_context().find_root().command, {}, "layerwise", "_LAYERWISE_COMPLETE"
    ).source()
    for line in script.splitlines():
        answer(line)
