"""`layerwise slave`: options of a slave process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from common.config.options import (
    PLACE,
    code_option,
    data_option,
    join_option,
    required_master_option,
    tls_option,
    wait_option,
)
from common.net.addresses import on_loopback
from common.observe import hosts as allowed
from common.observe import logs


@click.command()
@required_master_option
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N",
    help="Device to train on; auto takes a GPU if there is one.",
)
@data_option
@code_option
@join_option
# Of `layerwise train`: the user's own configuration, whose files run from their own paths.
@click.option("--own-config", type=PLACE, hidden=True)
@wait_option("train")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Profile basic: address to listen on for neighbours. Default: a free port of the interface that "
    "faces the master.",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    help="Profile basic: address that neighbours connect to, if not that of --listen; port 0 stands for the "
    "port listened on.",
)
@click.option(
    "--metrics",
    default=partial(on_loopback, 0),
    show_default="127.0.0.1:0",
    metavar="HOST:PORT",
    help="Address of the read-only page /metrics, which the master lists for Prometheus; port 0 takes a free "
    "port.",
)
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Speed of this machine, in any unit that all slaves of the run are given: at the beginning, and "
    "where the number of replicas changes, a faster machine takes a layer with more work. Default: measured, "
    "in 10^9 multiply-adds a second.",
)
@tls_option
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow unencrypted listening beyond this machine; with --tls, this is about the pages alone.",
)
@allowed.option
@logs.options
def slave(
    master: str,
    device: str,
    data: Path | None,
    code: Path | None,
    join_token_file: Path | None,
    own_config: Path | None,
    wait: float,
    listen: str | None,
    advertise: str | None,
    metrics: str,
    speed: float | None,
    tls: Path | None,
    insecure: bool,
    hosts: tuple[str, ...],
    log_format: str,
    log_level: str,
) -> int:
    """Train a layer of a run; the master assigns the layer and sends the configuration.

    A slave waits for a master that has not started yet, takes over a layer whose slave has failed, and exits
    with 0 when the run is over.
    """
    from common.net.addresses import check_listen
    from common.output import divert_output
    from slave.network.options import Options
    from slave.service import serve

    if listen is not None:
        check_listen(listen, insecure or tls is not None)
    check_listen(metrics, insecure or tls is not None, "--metrics")
    names = allowed.check_hosts(hosts)
    logs.configure("slave", log_format, log_level)
    with divert_output():
        return serve(
            Options(
                master,
                device,
                data,
                code,
                wait,
                listen,
                advertise,
                insecure,
                metrics,
                names,
                join_token_file,
                own_config,
                tls,
                speed,
            )
        )
