"""Options and arguments that several commands have, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from common.config.numbers import NonNegative

Command = TypeVar("Command", bound=Callable[..., Any])

# A path that the command itself opens, with an error of its own.
PLACE = click.Path(readable=False, path_type=Path)


def _complete_set(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click's signature
    """Complete the key of --set, as far as the equals sign."""
    from common.config import settings
    from common.config.sections import Config

    return [CompletionItem(f"{name}=") for name in settings.keys(Config) if name.startswith(incomplete)]


config_argument = click.argument("config", type=PLACE)
optional_config_argument = click.argument("config", required=False, type=PLACE)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Override a configuration key; the last one for a key wins.",
    shell_complete=_complete_set,
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print only JSON on standard output.")
master_option = click.option("--master", metavar="HOST:PORT", help="Address of the run's master.")
required_master_option = click.option(
    "--master", required=True, metavar="HOST:PORT", help="Address of the run's master."
)
data_option = click.option(
    "--data",
    type=PLACE,
    metavar="PATH",
    help="Folder (or file of text) of the data set on this machine, if not data.path.",
)
code_option = click.option(
    "--code", type=PLACE, metavar="DIR", help="Folder of the user's Python files here."
)
join_option = click.option(
    "--join-token-file",
    type=PLACE,
    metavar="FILE",
    help="Copy of join.token in the master's state directory; needless for your own master on this machine.",
)
token_option = click.option(
    "--token-file",
    type=PLACE,
    metavar="FILE",
    help="Copy of operator.token in the master's state directory; needless for your own master on this "
    "machine.",
)
tls_option = click.option(
    "--tls",
    type=PLACE,
    metavar="DIR",
    help="Folder of a certificate (ca.pem, certificate.pem, key.pem) for TLS; see `layerwise certificates`.",
)


def cluster_tls_option(use: str) -> Callable[[Command], Command]:
    """Declare --tls of a command that starts a whole cluster; `use` ends the help's first sentence."""
    return click.option(
        "--tls", type=PLACE, metavar="DIR", help=f"Folder that `layerwise certificates` has made{use}"
    )


def wait_option(work: str) -> Callable[[Command], Command]:
    """Declare --wait of a process that needs a master; `work` is what it does meanwhile."""
    return click.option(
        "--wait",
        type=NonNegative(),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help=f"How long to {work} or wait without a master before giving up.",
    )


def run_dir_option(help: str) -> Callable[[Command], Command]:  # noqa: A002 - click's name
    """Declare --run-dir, a folder of results."""
    return click.option("--run-dir", type=PLACE, metavar="DIR", help=help)


def out_option(command: Command) -> Command:
    """Declare --out, a folder of results of several runs."""
    return click.option(
        "--out", type=PLACE, metavar="DIR", help="Folder for the results. Default: a new folder under runs/."
    )(command)
