"""A part of the fuzzing of real processes; `python -m tests.faults.fuzz --frames 1000000` is the whole."""

from __future__ import annotations

import random

import pytest

from common.credentials import NOBODY
from common.net.http2 import frames
from common.wire.methods import PUSH
from tests.faults.fuzz.__main__ import MOST, fuzz, growth
from tests.faults.fuzz.mutation import Mutator
from tests.faults.fuzz.talking import call, parse, understand

# With the frames of tests/master/servicers/test_fuzz.py a tenth of the whole. The other cluster of CLUSTERS
# is left to the command.
PLAYED = {"basic": 16_000, "basic, TLS": 16_000}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLAYED)
def test_mutated_frames_and_calls_do_no_harm(name: str) -> None:
    found = fuzz(name, PLAYED[name], seed=7)
    assert found["wrong"] == []
    # What was sent was good enough to be taken, and bad enough to be refused.
    pushes = found["ways"]["holder of a lease, pushes and pulls"]["statuses"]
    assert min(pushes["OK"], pushes["INVALID_ARGUMENT"]) > found["frames"] / 1000
    assert found["ways"]["neighbour"]["statuses"]["met"]
    assert found["refused_by_the_slave"]
    strangers = found["ways"]["strangers at the data port"]["statuses"]
    assert max(strangers, key=strangers.__getitem__) in ("UNAUTHENTICATED", "PERMISSION_DENIED")


def test_what_has_grown_is_named() -> None:
    before = {"master": {"threads": 10.0, "files": 20.0, "mib": 60.0, "log": 0.0}}
    assert growth(before, before, 1000) == []
    for what, most in MOST.items():
        after = {"master": {**before["master"], what: before["master"][what] + most + 1}}
        (wrong,) = growth(before, after, 1000)
        assert wrong.startswith(f"master: {what} have grown from")
    (wrong,) = growth(before, {"master": {**before["master"], "log": 1e6}}, 1000)
    assert "has written 1000000.0 bytes" in wrong


def test_a_seed_gives_the_same_mutations() -> None:
    sent = call(PUSH, [b"abc", b"def"], shown=NOBODY, stream=1)
    first, second = (Mutator(random.Random(3)).connection(sent) for _ in range(2))
    assert first == second != sent


def test_a_call_is_headers_and_a_frame_for_each_message() -> None:
    sent = call(PUSH, [b"abc", b"def"], shown=NOBODY, stream=5)
    found = list(parse(b"".join(sent)))
    assert [kind for kind, *_ in found] == [frames.Kind.HEADERS, frames.Kind.DATA, frames.Kind.DATA]
    assert [flags & frames.END_STREAM for _, flags, *_ in found] == [0, 0, 1]
    assert understand(b"".join(sent)).messages == {5: [b"abc", b"def"]}
