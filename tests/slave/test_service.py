"""Life of a slave: the right to join."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from common.config.sections import Config
from common.credentials import NOBODY, Credentials
from common.errors import ConfigError, UnprovenError
from common.wire.messages import Holdings, JoinReply
from slave import service
from slave.network.options import Options
from slave.service import Slave
from tests.master.served import Served, served


def joined(master: Served) -> JoinReply | None:
    """Have a slave ask for a lease."""
    slave = Slave(Options(master.address))
    slave._metrics_address = ""
    try:
        return slave._join(Config(), "cpu", "", Holdings())
    finally:
        slave._channel.close()


def test_a_slave_finds_the_token_of_a_master_that_has_just_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look before the master had its directory once sent the slave to the new master without a token."""
    with served(tmp_path) as master:
        found = iter([NOBODY, master.joiner, master.joiner])
        monkeypatch.setattr(service, "find_joiner", lambda *_: next(found))
        lease = joined(master)
        assert lease is not None
        assert (lease.granted, lease.layer) == (True, 1)


@pytest.mark.parametrize("token", ["", "0" * 32])
def test_a_slave_without_the_right_to_join_ends_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    with served(tmp_path) as master:
        monkeypatch.setattr(service, "find_joiner", lambda *_: Credentials(token=token))
        with pytest.raises(UnprovenError, match=r"join\.token by --join-token-file"):
            joined(master)
    assert UnprovenError.exit_code == 3


@pytest.mark.parametrize("option", ["data", "code", "join_token"])
def test_a_missing_file_of_an_option_is_told_before_any_wait(tmp_path: Path, option: str) -> None:
    options = Options("127.0.0.1:1", wait=600.0)
    missing = {option: tmp_path / "none"}
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')}.* {tmp_path}/none: "):
        service.serve(dataclasses.replace(options, **missing))  # type: ignore[arg-type]
