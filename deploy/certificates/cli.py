"""`layerwise certificates`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.config.options import PLACE, json_option
from common.errors import ConfigError
from common.text import advise_install, answer
from deploy.certificates.folders import DAYS

if TYPE_CHECKING:
    from deploy.certificates.making import Wanted


@click.command()
@click.argument("folder", metavar="DIR", type=PLACE)
@click.option(
    "--master",
    "masters",
    multiple=True,
    metavar="NAME",
    help="Name or address by which browsers, Prometheus and other clients reach the master; may be repeated.",
)
@click.option(
    "--slaves",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Number of slaves; in a folder that has an authority already, of further slaves.",
)
@click.option(
    "--add",
    "holders",
    multiple=True,
    metavar="ROLE=NAME",
    help="A further certificate, in DIR/NAME; a role is slave, store, evaluator, operator or reader. May be "
    "repeated.",
)
@click.option("--run", metavar="NAME", help="Name of the runs that are meant (run.name). Default: every run.")
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=DAYS,
    show_default=True,
    metavar="N",
    help="Days until the certificates end.",
)
@click.option(
    "--renew", "renews", is_flag=True, help="Renew every certificate in DIR; running processes follow."
)
@json_option
def certificates(
    folder: Path,
    masters: tuple[str, ...],
    slaves: int,
    holders: tuple[str, ...],
    run: str | None,
    days: int,
    renews: bool,
    as_json: bool,
) -> int:
    """Make an authority and certificates for a cluster, in a folder for each process.

    DIR/master, DIR/slave-1, ..., DIR/evaluator, DIR/operator and DIR/reader have ca.pem, certificate.pem and
    key.pem each: copy a folder to its machine, and name it by --tls. DIR/authority has the key that signs
    certificates: keep it away from the cluster. No file is overwritten without --renew. With the authority in
    place and without --master, --slaves and --add make further certificates.

    --json prints an object: authority (its folder), and certificates, a list of objects with folder and
    days.
    """
    from common import strict_json

    try:
        from deploy.certificates import making
    except ImportError:
        raise ConfigError(
            f"certificates: the package cryptography is not installed; {advise_install('tls')}"
        ) from None
    from deploy.certificates.folders import AUTHORITY

    if renews:
        if masters or slaves or holders or run:
            raise ConfigError(
                "certificates --renew: keeps names and roles; leave out --master, --slaves, --add and --run"
            )
        made = making.renew(folder, days)
    else:
        wanted = _plan(folder, masters, slaves, holders)
        made = making.make(folder, wanted, run, days)
    if as_json:
        listed = [{"folder": str(each), "days": days} for each in made if each.name != AUTHORITY]
        answer(strict_json.encode({"authority": str(folder / AUTHORITY), "certificates": listed}))
        return 0
    for each in made:
        word = "keep this key away from the cluster" if each.name == AUTHORITY else f"{days} days"
        answer(f"{each}: {word}")
    return 0


def _plan(folder: Path, masters: tuple[str, ...], slaves: int, holders: tuple[str, ...]) -> list[Wanted]:
    """Plan the certificates of a new cluster, or those that are added to a folder.

    Raises:
        ConfigError: nothing is asked for, or an argument cannot be used.
    """
    from deploy.certificates import making
    from deploy.certificates.folders import AUTHORITY

    if masters:
        cluster = making.plan([making.check_host(name) for name in masters], slaves)
        return [*cluster, *making.plan_more(folder, 0, holders)]
    if not folder.exists():
        raise ConfigError("certificates: give the name or address of the master's machine by --master NAME")
    if not (slaves or holders):
        raise ConfigError(
            f"certificates {folder}: give what is to be added: --slaves N, --add ROLE=NAME; or --master NAME "
            "for a new cluster, or --renew"
        )
    if not (folder / AUTHORITY).exists():
        raise ConfigError(
            f"{folder / AUTHORITY}: is missing; put the authority's folder back for this command, or give "
            "another folder and --master NAME for a new cluster"
        )
    return making.plan_more(folder, slaves, holders)
