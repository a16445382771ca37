"""`layerwise doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from common.config.options import (
    code_option,
    data_option,
    join_option,
    json_option,
    optional_config_argument,
    set_option,
    tls_option,
)
from common.errors import ConfigError


@click.command()
@optional_config_argument
@set_option
@click.option("--master", metavar="HOST:PORT", help="Check as a slave of this master, whose run it then is.")
@data_option
@code_option
@join_option
@tls_option
@json_option
def doctor(
    config: Path | None,
    overrides: tuple[str, ...],
    master: str | None,
    data: Path | None,
    code: Path | None,
    join_token_file: Path | None,
    tls: Path | None,
    as_json: bool,
) -> int:
    """Check the machine and a set-up: print findings with fixes.

    CONFIG is a TOML file; without it, and without --master, the default run is checked. Nothing is changed,
    downloaded or left behind. The current folder counts as the place of runs and states.

    --json prints a list of objects: name (of the check), state (ok, warning or failed), found, and fix, empty
    where nothing is to be done.

    Exit codes: 0 nothing failed; 2 a check failed; 3 the master cannot be reached or refuses.
    """
    from deploy.doctor.checks import CHECKS
    from deploy.doctor.report import exit_code, print_findings
    from deploy.doctor.runner import examine
    from deploy.doctor.setup import ask_setup, read_setup

    if master and (config or overrides):
        raise ConfigError("doctor --master: the master has the run's configuration; omit CONFIG and --set")
    if master:
        setup = ask_setup(master, data, code, join_token_file, tls)
    else:
        setup = read_setup(config, overrides, data, code, tls)
    findings = examine(setup, CHECKS.values())
    print_findings(findings, as_json)
    return exit_code(setup, findings)
