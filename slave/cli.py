"""`layerwise slave`."""

from __future__ import annotations

import logging
from pathlib import Path

import click


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
@click.option("--insecure", is_flag=True, help="Listen beyond this machine in the clear.")
def slave(
    master: str,
    device: str,
    data: Path | None,
    code: Path | None,
    wait: float,
    listen: str | None,
    advertise: str | None,
    insecure: bool,
) -> int:
    """Train one layer: everything else comes from the master.

    Waits for the master if it is not there yet; takes over a layer whose slave has failed; ends with 0 when
    the run is over.
    """
    from common.rpc import check_listen
    from slave.service import Options, serve

    if listen is not None:
        check_listen(listen, insecure)
    logging.basicConfig(level=logging.INFO, format="slave: %(message)s")
    return serve(Options(master, device, data, code, wait, listen, advertise, insecure))
