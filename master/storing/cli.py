"""`layerwise store`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from common.config.options import PLACE, join_option, required_master_option, tls_option, wait_option
from common.net.addresses import on_loopback
from common.observe import hosts as allowed
from common.observe import logs


@click.command()
@required_master_option
@click.option(
    "--state-dir",
    required=True,
    type=PLACE,
    metavar="DIR",
    help="Directory for this store's shards; a store that is started again goes on with its directory.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Address to listen on for slaves and readers. Default: a free port of the interface that faces the "
    "master.",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    help="Address that slaves and readers connect to, if not that of --listen; port 0 stands for the port "
    "listened on.",
)
@click.option(
    "--metrics",
    default=partial(on_loopback, 0),
    show_default="127.0.0.1:0",
    metavar="HOST:PORT",
    help="Address of the read-only pages /metrics, which the master lists for Prometheus, and /healthz; port "
    "0 takes a free port.",
)
@wait_option("serve")
@join_option
@tls_option
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow unencrypted listening beyond this machine; with --tls, this is about the pages alone.",
)
@allowed.option
@logs.options
def store(
    master: str,
    state_dir: Path,
    listen: str | None,
    advertise: str | None,
    metrics: str,
    wait: float,
    join_token_file: Path | None,
    tls: Path | None,
    insecure: bool,
    hosts: tuple[str, ...],
    log_format: str,
    log_level: str,
) -> int:
    """Keep a part of a run's parameters, in the master's place.

    The run's configuration says by cluster.stores how many stores there are. A store waits for a master that
    has not started yet, and stays when the run is over, until interrupted.
    """
    from common.net.addresses import check_listen
    from master.storing.options import Options
    from master.storing.service import serve

    if listen is not None:
        check_listen(listen, insecure or tls is not None)
    check_listen(metrics, insecure or tls is not None, "--metrics")
    names = allowed.check_hosts(hosts)
    logs.configure("store", log_format, log_level)
    return serve(
        Options(master, state_dir, listen, advertise, metrics, names, wait, join_token_file, tls, insecure)
    )
