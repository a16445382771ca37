"""slave.network.way_back: what a slave makes of the master's word about its address."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from common.config.sections import Config
from common.credentials import NOBODY
from common.errors import RefusedError, UnreachableError
from common.net import control
from common.net.backoff import Backoff
from common.net.callback import Greeter
from common.net.listening import listen_at
from slave.network.options import Options
from slave.network.way_back import WayBack
from tests.deploy.doctor.masters import FakeMaster, fake_master

# Of documentation, and never loopback: the answer is the fake master's alone.
ELSEWHERE = "192.0.2.7:4711"


@pytest.fixture
def master() -> FakeMaster:
    """A master that reaches nobody."""
    found = FakeMaster(Config())
    found.walled = True
    return found


@pytest.fixture
def address(master: FakeMaster) -> Iterator[str]:
    with fake_master(master) as found:
        yield found


def check(master: str, address: str, token: str = "0" * 32, advertise: str | None = None) -> None:
    def pause(seconds: float) -> None:
        if seconds:
            raise TimeoutError

    with control.channel(master) as channel:
        backoff = Backoff(lambda: 0.0, lambda: 0.5)
        options = Options(master, advertise=advertise)
        WayBack(channel, options, backoff, lambda: NOBODY, pause).check(address, token)


def test_a_slave_that_the_master_cannot_reach_is_told_at_once_and_sent_to_light(address: str) -> None:
    with pytest.raises(RefusedError) as caught:
        check(address, ELSEWHERE)
    text = str(caught.value)
    assert text.startswith(f"the master at {address} cannot connect to this slave at {ELSEWHERE}")
    assert "cluster.profile = light" in text
    assert "--advertise" in text


def test_an_address_of_the_users_choice_may_be_for_neighbours_alone(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "layerwise.slave"):
        check(address, ELSEWHERE, advertise=ELSEWHERE)
    assert f"cannot connect to this slave at {ELSEWHERE}" in caplog.text


def test_a_slave_that_is_reached_goes_on_and_its_listener_stays_open(
    master: FakeMaster, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    master.walled = False
    # The check leaves loopback out; here it stands for another machine.
    monkeypatch.setattr("slave.network.way_back.is_loopback", lambda _: False)
    with listen_at("--listen", "127.0.0.1", 0) as listening:
        here = f"127.0.0.1:{listening.getsockname()[1]}"
        with Greeter(listening) as greeter:
            check(address, here, greeter.token)
            with pytest.raises(RefusedError):
                check(address, here, "f" * 32)
        assert listening.gettimeout() is None


def test_nobody_is_asked_about_loopback(address: str) -> None:
    check(address, "127.0.0.1:4711")


def test_a_master_that_is_away_is_waited_for() -> None:
    with pytest.raises((TimeoutError, UnreachableError)):
        check("127.0.0.1:1", ELSEWHERE)
