"""Option --allow-host: further names in requests for pages."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from common.errors import ConfigError

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)

option = click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Further name under which the pages may be asked for, as of a Kubernetes service or a proxy; repeat "
    "for several. Addresses and this machine's names need none.",
)


def check_hosts(names: Iterable[str]) -> frozenset[str]:
    """Check and return the names of --allow-host.

    Raises:
        ConfigError: not the bare name of a host.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"--allow-host {name}: is no name of a host; give the bare name, without scheme, port and "
                "path, for example layerwise.example.org"
            )
    return frozenset(map(plain_name, names))


def plain_name(name: str) -> str:
    """Return the name of a host in lower case, without the final dot of a full name."""
    return name.lower().removesuffix(".")
