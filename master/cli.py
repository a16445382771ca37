"""`layerwise master`."""

from __future__ import annotations

from pathlib import Path

import click

from common.observe import hosts as allowed
from common.observe import logs


@click.command()
@click.argument("config", type=click.Path(readable=False, path_type=Path))
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a key; the last wins."
)
@click.option(
    "--listen",
    default="127.0.0.1:50051",
    show_default=True,
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
    type=click.Path(readable=False, path_type=Path),
    metavar="DIR",
    help="Directory for parameters and leases; a run in the directory is resumed.",
)
@click.option(
    "--web",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Address of the read-only pages: live page, /metrics, /status; port 0 takes a free port.",
)
@click.option(
    "--join-token-file",
    type=click.Path(readable=False, path_type=Path),
    metavar="FILE",
    help="File of the token with which slaves join, made if missing. Default: join.token in --state-dir.",
)
@click.option("--insecure", is_flag=True, help="Listen beyond this machine in the clear.")
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
    from common.net.addresses import check_listen
    from master.service import serve

    check_listen(listen, insecure)
    run = load(config, overrides)
    if not run.cluster.distributed:
        raise ConfigError(f"cluster.profile: {run.cluster.profile} has no master; use `layerwise train`")
    check_listen(web, insecure, "--web")
    names = allowed.check_hosts(hosts)
    logs.configure("master", log_format, log_level)
    return serve(resolve(run), listen, bulk_port, web, state_dir, names, join_token_file)
