"""`layerwise slave`."""

from __future__ import annotations

from pathlib import Path

import click

from common.observe import logs


@click.command()
@click.option("--master", required=True, metavar="HOST:PORT", help="Where the master listens.")
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda:N", help="What to train on."
)
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH", help="Folder of the data set here.")
@click.option(
    "--code", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the user's files here."
)
@click.option(
    "--wait", default=60.0, show_default=True, metavar="SECONDS", help="How long to go on without a master."
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Profile basic: where to listen for neighbours; by default at a free port of the interface that "
    "reaches the master.",
)
@click.option(
    "--advertise",
    metavar="HOST:PORT",
    help="Profile basic: where neighbours reach this slave, if not there; port 0 is the one listened on.",
)
@click.option(
    "--metrics",
    default="127.0.0.1:0",
    show_default=True,
    metavar="HOST:PORT",
    help="Where /metrics is shown, to be read only; the master is told. Port 0 takes a free one.",
)
@click.option("--insecure", is_flag=True, help="Listen beyond this machine in the clear.")
@logs.options
def slave(
    master: str,
    device: str,
    data: Path | None,
    code: Path | None,
    wait: float,
    listen: str | None,
    advertise: str | None,
    metrics: str,
    insecure: bool,
    log_format: str,
    log_level: str,
) -> int:
    """Train one layer: everything else comes from the master.

    Waits for the master if it is not there yet; takes over a layer whose slave has failed; ends with 0 when
    the run is over.
    """
    from common.net.addresses import check_listen
    from slave.network.options import Options
    from slave.service import serve

    if listen is not None:
        check_listen(listen, insecure)
    check_listen(metrics, insecure, "--metrics")
    logs.configure("slave", log_format, log_level)
    return serve(Options(master, device, data, code, wait, listen, advertise, insecure, metrics))
