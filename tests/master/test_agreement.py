"""Agreement of a run's processes, as a pure decision and through the run's state machine."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from common.errors import RefusedError
from common.wire.messages import AgreeRequest, Holdings, JoinRequest
from master.agreement import Agreement, compare
from tests.master.test_run import Shards, begin, events, restart

OWN = "network.model own.py"
VERSIONS = {"python": "3.11.7", "torch": "2.13.0+cpu", "layerwise": "0.1.0"}
HELD = Holdings({"train_x": "uint8 (9, 4) 1a", "train_y": "int64 (9,) 2b"}, {OWN: "3c"}, VERSIONS)
FIRST = Agreement("gpu-1", HELD)


def versions(**changed: str) -> Holdings:
    return replace(HELD, versions=VERSIONS | changed)


def test_equal_holdings_agree() -> None:
    verdict = compare(FIRST, Agreement("gpu-2", HELD))
    assert (verdict.refusal, verdict.warning) == ("", "")


@pytest.mark.parametrize(
    ("holdings", "said", "advice"),
    [
        (replace(HELD, data=HELD.data | {"train_y": "ff"}), "the data differ: train_y is int64", "sorted("),
        (replace(HELD, data={}), "the data differ: train_x is uint8 (9, 4) 1a", "fixed seed"),
        (replace(HELD, files={OWN: "ff"}), f"the user's files differ: {OWN} is 3c", "copy the first"),
        (replace(HELD, files={OWN: "3c", "a.py": "3c"}), "a.py is nothing in the first", "copy the first"),
        (versions(torch="2.12.0"), "the versions differ: torch is 2.13.0+cpu", "install equal versions"),
        (versions(torch="3.13.0"), "the versions differ: torch is 2.13.0+cpu", "install equal versions"),
        (versions(python="3.12.7"), "the versions differ: python is 3.11.7", "install equal versions"),
        (versions(layerwise="0.2.0"), "the versions differ: layerwise is 0.1.0", "install equal versions"),
        (Holdings(), "the versions differ: python is 3.11.7", "install equal versions"),
    ],
)  # fmt: skip
def test_a_difference_is_refused_with_both_machines_and_advice(
    holdings: Holdings, said: str, advice: str
) -> None:
    refusal = compare(FIRST, Agreement("gpu-2", holdings)).refusal
    assert said in refusal
    assert "in the first process of the run, on gpu-1, " in refusal
    assert "in this one, on gpu-2" in refusal
    assert advice in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize("torch", ["2.13.1", "2.13.1+cu128"])
def test_a_patch_apart_is_a_warning(torch: str) -> None:
    verdict = compare(FIRST, Agreement("gpu-2", versions(torch=torch)))
    assert verdict.refusal == ""
    assert (
        f"torch is 2.13.0+cpu in the first process of the run, on gpu-1, {torch} in this one"
        in verdict.warning
    )


def test_builds_of_one_version_for_cpu_and_cuda_agree() -> None:
    verdict = compare(FIRST, Agreement("gpu-2", versions(torch="2.13.0+cu128")))
    assert (verdict.refusal, verdict.warning) == ("", "")


def test_a_slave_with_other_data_gets_no_lease_and_the_event_says_why() -> None:
    run = begin()
    assert run.join(JoinRequest("a", "gpu-1", holdings=HELD), 1.0).granted
    run.take_effects()
    with pytest.raises(RefusedError, match="the data differ: train_x is uint8"):
        run.join(JoinRequest("b", "gpu-2", holdings=replace(HELD, data={"train_x": "other"})), 1.0)
    (refused,) = run.take_effects()
    assert (refused.line["event"], refused.line["host"]) == ("refused", "gpu-2")
    assert run.join(JoinRequest("b", "gpu-2", holdings=HELD), 1.0).granted


def test_the_first_process_is_remembered_over_a_restart_of_the_master() -> None:
    run = begin()
    run.join(JoinRequest("a", "gpu-1", holdings=HELD), 1.0)
    after = restart(run)
    edited = replace(HELD, files={OWN: "ff"})
    with pytest.raises(RefusedError, match="the user's files differ"):
        after.join(JoinRequest("b", "gpu-1", holdings=edited), 10.0)
    assert after.join(JoinRequest("b", "gpu-1", holdings=HELD), 10.0).granted


def test_an_evaluator_speaks_first_or_is_compared() -> None:
    run = begin()
    assert run.agree(AgreeRequest("here", HELD), 1.0).warning == ""
    assert events(run) == ["agreed"]
    with pytest.raises(RefusedError, match="versions differ"):
        run.join(JoinRequest("a", "gpu-1"), 1.0)
    with pytest.raises(RefusedError, match="data differ"):
        run.agree(AgreeRequest("there", replace(HELD, data={})), 1.0)


def test_a_warning_reaches_the_slave_and_the_events() -> None:
    run = begin()
    run.agree(AgreeRequest("here", HELD), 1.0)
    run.take_effects()
    reply = run.join(JoinRequest("a", "gpu-1", holdings=versions(torch="2.13.9")), 1.0)
    assert reply.granted
    assert "torch is 2.13.0+cpu" in reply.warning
    assert events(run) == ["joined", "warned"]
    # The lease is asked for again, and the warning is not logged again.
    run.join(JoinRequest("a", "gpu-1", holdings=versions(torch="2.13.9")), 1.0)
    assert events(run) == []


def test_a_run_without_shards_and_leases_takes_a_new_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shards, "versions", lambda _: {})
    run = begin()
    wrong = replace(HELD, data={})
    run.agree(AgreeRequest("typo", wrong), 1.0)
    assert run.join(JoinRequest("a", "gpu-1", holdings=HELD), 1.0).granted
    with pytest.raises(RefusedError):
        run.join(JoinRequest("b", "typo", holdings=wrong), 1.0)


def test_old_values_without_an_agreement_are_restored() -> None:
    assert Agreement.restore({}) == Agreement()
    assert Agreement.restore(json.loads(json.dumps(FIRST.dump()))) == FIRST
