"""A link that is slow, or cut for a while: what reaches the other side, and when."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from common.errors import UnreachableError
from common.net.addresses import split_address
from deploy.evaluation.reader import Reader
from tests.faults.proxy import Proxy
from tests.master.served import served


def test_a_link_on_which_a_round_trip_takes_a_third_of_a_second_is_a_link(tmp_path: Path) -> None:
    """No attempt to connect is given up within the time that the connection takes."""
    with (
        served(tmp_path) as master,
        Proxy(lambda: split_address(master.address)) as proxy,
        Reader(proxy.address) as reader,
    ):
        proxy.slow(bytes_per_second=1e6, latency=0.3)
        assert reader.status().state == "waiting"


def test_what_was_asked_on_a_link_that_was_cut_is_answered_when_it_is_healed(tmp_path: Path) -> None:
    with (
        served(tmp_path) as master,
        Proxy(lambda: split_address(master.address)) as proxy,
        Reader(proxy.address) as reader,
    ):
        reader.status()
        for way in ({"asked": False}, {"answered": False}, {}):
            proxy.cut(**way)
            began = time.monotonic()
            with pytest.raises(UnreachableError):
                reader.status(0.3)
            assert time.monotonic() - began > 0.2
            proxy.heal()
            assert reader.status().state == "waiting"
