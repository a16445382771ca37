"""`layerwise master`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from common.config.options import PLACE, config_argument, set_option, tls_option
from common.net.addresses import on_loopback
from common.observe import hosts as allowed
from common.observe import logs


@click.command()
@config_argument
@set_option
@click.option(
    "--listen",
    default=partial(on_loopback, 50051),
    show_default="127.0.0.1:50051",
    metavar="HOST:PORT",
    help="Control port; 0 takes a free port.",
)
@click.option(
    "--bulk-port",
    default=0,
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Data port on the same host, for shards and boundary streams; slaves learn it. 0 takes a free port.",
)
@click.option(
    "--state-dir",
    required=True,
    type=PLACE,
    metavar="DIR",
    help="Directory for parameters and leases; a run in the directory is resumed.",
)
@click.option(
    "--web",
    default=partial(on_loopback, 0),
    show_default="127.0.0.1:0",
    metavar="HOST:PORT",
    help="Address of the read-only pages: live page, /metrics, /status; port 0 takes a free port.",
)
@click.option(
    "--join-token-file",
    type=PLACE,
    metavar="FILE",
    help="File of the token with which slaves join, made if missing. Default: join.token in --state-dir.",
)
@click.option(
    "--reader-token-file",
    type=PLACE,
    metavar="FILE",
    help="File of the token with which pages beyond this machine are read in the clear, made if missing, and "
    "readable by its owner's group, too. Default: reader.token in --state-dir, for its owner alone.",
)
@tls_option
@click.option(
    "--insecure",
    is_flag=True,
    help="Listen beyond this machine in the clear; with --tls, this is about the pages alone.",
)
@allowed.option
@logs.options
def master(
    config: Path,
    overrides: tuple[str, ...],
    listen: str,
    bulk_port: int,
    state_dir: Path,
    web: str,
    join_token_file: Path | None,
    reader_token_file: Path | None,
    tls: Path | None,
    insecure: bool,
    hosts: tuple[str, ...],
    log_format: str,
    log_level: str,
) -> int:
    """Keep a run's parameters, and serve slaves.

    Stays when the run is over, to answer `status`, `evaluate` and `export`, until interrupted.
    """
    from common.config.files import load
    from common.errors import ConfigError
    from common.models.resolution import resolve
    from common.net.access import Role
    from common.net.addresses import check_listen
    from common.net.identity import find_identity
    from master.service import serve

    run = load(config, overrides)
    identity = find_identity(tls, run.security.files)
    if identity is not None:
        identity.check_own_role(Role.MASTER, run.run.name)
    check_listen(listen, insecure or identity is not None)
    if not run.cluster.distributed:
        raise ConfigError(f"cluster.profile: {run.cluster.profile} has no master; use `layerwise train`")
    check_listen(web, insecure or identity is not None, "--web")
    names = allowed.check_hosts(hosts)
    logs.configure("master", log_format, log_level)
    return serve(
        resolve(run.shared),
        listen,
        bulk_port,
        web,
        state_dir,
        names,
        join_token_file,
        identity,
        reader_token_file,
        insecure_pages=insecure,
    )
