"""Check of the agreement with the processes of a run: equal data, user files and versions."""

from __future__ import annotations

import socket

from common.data import datasets
from common.data.holdings import take_stock
from common.errors import ConfigError, RefusedError, UnprovenError
from common.net import control
from common.wire.messages import AgreeRequest
from common.wire.methods import AGREE
from deploy.doctor.findings import Verdict, failed, ok, warning
from deploy.doctor.setup import JOIN_FIX, MASTER_SECONDS, Setup

_FIX = "give every machine equal data, user files and versions, or begin a new run"


def examine_agreement(setup: Setup) -> Verdict:
    """Have the master compare digests of data and user files, and versions, with those of the run."""
    assert setup.config is not None
    try:
        dataset = datasets.of(setup.config, path=setup.data, code=setup.code)
        holdings = take_stock(setup.config, dataset, setup.code)
    except ConfigError:
        return warning("not checked, since the data are not at hand", "see the check of the data")
    with setup.channel() as channel:
        try:
            request = AgreeRequest(socket.gethostname(), holdings)
            difference = control.call(channel, AGREE, request, MASTER_SECONDS, setup.shown).warning
        except UnprovenError as error:
            return failed(str(error), JOIN_FIX)
        except RefusedError as error:
            return failed(str(error), _FIX)
    if difference:
        return warning(difference, _FIX)
    return ok("no process of the run holds other data, user files or versions")
