"""benchmarks.racing.watching: when the onlooker looks at a cluster's weights."""

from __future__ import annotations

from benchmarks.racing.watching import is_newer, weights
from common.wire.messages import StatusReply


def test_nothing_is_looked_at_before_every_layer_has_weights() -> None:
    early = StatusReply(versions={"1/weights": 3, "1/gradient": 3})
    assert not weights(early, 2)
    assert not is_newer(weights(early, 2), {})
    whole = StatusReply(versions={"1/weights": 3, "1/gradient": 3, "2/weights": 0, "1/optimizer": 7})
    assert weights(whole, 2) == {"1/weights": 3, "2/weights": 0}


def test_a_look_waits_for_newer_weights_of_every_layer() -> None:
    assert not is_newer({"1/weights": 3, "2/weights": 0}, {})
    assert is_newer({"1/weights": 1, "2/weights": 1}, {})
    assert not is_newer({"1/weights": 2, "2/weights": 1}, {"1/weights": 1, "2/weights": 1})
    assert is_newer({"1/weights": 2, "2/weights": 2}, {"1/weights": 1, "2/weights": 1})
