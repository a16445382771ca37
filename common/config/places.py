"""Options for places on this machine: of the data, of the user's files, of tokens and certificates."""

from __future__ import annotations

from pathlib import Path

import click

data_option = click.option(
    "--data",
    type=click.Path(readable=False, path_type=Path),
    metavar="PATH",
    help="Folder (or file of text) of the data set on this machine, if not data.path.",
)
join_option = click.option(
    "--join-token-file",
    type=click.Path(readable=False, path_type=Path),
    metavar="FILE",
    help="Copy of join.token in the master's state directory; needless for your own master on this machine.",
)
token_option = click.option(
    "--token-file",
    type=click.Path(readable=False, path_type=Path),
    metavar="FILE",
    help="Copy of operator.token in the master's state directory; needless for your own master on this "
    "machine.",
)
code_option = click.option(
    "--code",
    type=click.Path(readable=False, path_type=Path),
    metavar="DIR",
    help="Folder of the user's Python files here.",
)
tls_option = click.option(
    "--tls",
    type=click.Path(readable=False, path_type=Path),
    metavar="DIR",
    help="Folder of a certificate (ca.pem, certificate.pem, key.pem) for TLS; see `layerwise certificates`.",
)
