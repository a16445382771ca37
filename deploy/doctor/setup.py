"""The set-up under examination: a configuration, from a file or from a master, and places on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.cgroups import ROOT
from common.config import files
from common.config.sections import Config
from common.config.user_code import check_sent_files
from common.credentials import NOBODY, Credentials
from common.errors import LayerwiseError
from common.net import control
from common.net.channels import Channel
from common.net.identity import find_identity
from common.net.tokens import find_joiner
from common.wire.messages import DescribeReply, DescribeRequest
from common.wire.methods import DESCRIBE

MASTER_SECONDS = 5.0
JOIN_FIX = "copy join.token from the master's state directory, and give it: --join-token-file FILE"


@dataclass(frozen=True)
class Contact:
    """A master's answer, with this machine's clock.

    Attributes:
        reply: the master's description of its run.
        ahead: seconds by which this machine's clock is ahead of the master's.
        uncertainty: largest error of `ahead`: half the round trip.
    """

    reply: DescribeReply
    ahead: float
    uncertainty: float


@dataclass(frozen=True)
class Setup:
    """The set-up under examination.

    Attributes:
        config: the run's configuration; None if there is none that can be read.
        trouble: error that left the set-up without a configuration.
        master: HOST:PORT; empty without a master.
        shown: credentials for the master: the join token.
        contact: the master's answer, if there was one.
        data: folder of the data set in place of `data.path`.
        code: folder of the user's files.
        root: folder in place of / for files of the system.
        tls: folder of the certificate; None: in the clear.
    """

    config: Config | None
    trouble: LayerwiseError | None = None
    master: str = ""
    shown: Credentials = NOBODY
    contact: Contact | None = None
    data: Path | None = None
    code: Path | None = None
    root: Path = ROOT
    tls: Path | None = None

    def channel(self) -> Channel:
        """Open a channel to the master.

        Raises:
            LayerwiseError: the certificate cannot be used.
        """
        return control.channel(self.master, find_identity(self.tls))


def read_setup(
    path: Path | None, overrides: Iterable[str], data: Path | None, code: Path | None, tls: Path | None = None
) -> Setup:
    """Read the set-up of a local run; an error becomes a part of the set-up."""
    try:
        return Setup(files.load(path, overrides), data=data, code=code, tls=tls)
    except LayerwiseError as error:
        return Setup(None, error, data=data, code=code, tls=tls)


def ask_setup(
    master: str, data: Path | None, code: Path | None, token: Path | None = None, tls: Path | None = None
) -> Setup:
    """Fetch the set-up of a slave from a master; an error becomes a part of the set-up."""
    try:
        shown = find_joiner(master, token)
        with Setup(None, master=master, tls=tls).channel() as channel:
            contact = _ask(channel)
        config = files.parse(contact.reply.config, f"the configuration from {master}")
        check_sent_files(config.user_functions, code, {})
    except LayerwiseError as error:
        return Setup(None, error, master=master, data=data, code=code, tls=tls)
    return Setup(config, master=master, shown=shown, contact=contact, data=data, code=code, tls=tls)


def _ask(channel: Channel) -> Contact:
    # The first call opens the connection; the second one measures a round trip alone.
    control.call(channel, DESCRIBE, DescribeRequest(), MASTER_SECONDS)
    began, sent_at = time.monotonic(), time.time()
    reply = control.call(channel, DESCRIBE, DescribeRequest(), MASTER_SECONDS)
    half = (time.monotonic() - began) / 2
    return Contact(reply, sent_at + half - reply.time, half)
