"""Options --data and --code: places of the data and of the user's files on this machine."""

from __future__ import annotations

from pathlib import Path

import click

data_option = click.option(
    "--data",
    type=click.Path(readable=False, path_type=Path),
    metavar="PATH",
    help="Folder (or file of text) of the data set on this machine, if not data.path.",
)
code_option = click.option(
    "--code",
    type=click.Path(readable=False, path_type=Path),
    metavar="DIR",
    help="Folder of the user's Python files here.",
)
