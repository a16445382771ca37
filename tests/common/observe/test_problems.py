"""common.observe.problems: what is wrong is said, in its order, and nothing is where nothing is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.files import load
from common.observe.joining import slave_command
from common.observe.problems import problems
from common.observe.standstill import count_standing, stands_still
from common.wire.counters import Counters, LayerPushes
from common.wire.messages import Seat, StatusReply, Telemetry
from common.wire.stores import StoreState
from common.wire.use import Utilization
from deploy.screen import WIDE, machines_table, slaves_table, stores_table

COMMAND = "layerwise slave --master one:50051"
CONFIG = load(None, ["network.cuts=[1, 2]", "downpour.staleness=bound", "downpour.bound=4"])
LEARNED = Telemetry(steps=500, loss=0.1, gradient_loss=2.0, gradient_cosine=0.6)
SEATS = [Seat(k, 0, "training", f"s{k}", f"host{k}", 10 + k, "cpu", k, 0.3, 9, 1, LEARNED) for k in (1, 2, 3)]
WELL = StatusReply("run", "training", seats=SEATS, utilization=Utilization(disk_percent=50))


def seated(place: int, **changed: object) -> StatusReply:
    """All is well but for one seat."""
    seats = list(SEATS)
    seats[place] = replace(seats[place], **changed)  # type: ignore[arg-type]
    return replace(WELL, seats=seats)


def told(status: StatusReply) -> list[str]:
    return [f"{each.what}: {each.advice}" for each in problems(status, CONFIG, COMMAND)]


def test_where_all_is_well_nothing_is_wrong() -> None:
    assert told(WELL) == []


VACANT = seated(1, state="vacant", incarnation=0, slave="", telemetry=Telemetry())


@pytest.mark.parametrize(
    ("profile", "master", "secure", "command"),
    [
        ("light", "127.0.0.1:50051", False, "--master 127.0.0.1:50051"),
        ("light", "one:50051", False, "--master one:50051 --join-token-file FILE"),
        ("basic", "one:50051", False, "--master one:50051 --join-token-file FILE --insecure"),
        ("basic", "one:50051", True, "--master one:50051 --tls DIR"),
        ("light", "127.0.0.1:50051", True, "--master 127.0.0.1:50051 --tls DIR"),
    ],
)
def test_the_command_of_another_slave_has_what_a_slave_needs_to_join(
    profile: str, master: str, secure: bool, command: str
) -> None:
    config = load(None, ["network.cuts=[1, 2]", f"cluster.profile={profile}"])
    assert slave_command(config, master, secure=secure) == f"layerwise slave {command}"


def test_the_command_of_another_slave_names_the_folder_of_the_user_s_files() -> None:
    config = load(None, ["network.model=net.py:build"])
    assert slave_command(config, "127.0.0.1:1", secure=False).endswith(" --code CODE")


FULL = replace(LEARNED, utilization=Utilization(disk_percent=93.2, memory_percent=97))
OLD_M = replace(LEARNED, gradient_cosine=-0.21)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (VACANT, ["layer 2: the slave has failed", "layerwise slave --master one:50051"]),
        (replace(VACANT, waiting_slaves=1), ["layer 2: the slave has", "a waiting slave takes over"]),
        (seated(1, state="vacant", grants=0, replica=1), ["layer 2 (replica 1): no slave yet"]),
        (
            seated(2, state="late", lease_age=1.84),
            ["layer 3: no heartbeat of its slave host3:13", "for 1.8 s", "after 2 s"],
        ),
        (seated(0, telemetry=FULL), ["host1: its disk is 93 % full", "host1: its memory is 97 % full"]),
        (replace(WELL, utilization=Utilization(disk_percent=99)), ["the master's machine: its disk is 99 %"]),
        (
            replace(WELL, stores=[StoreState(2, "late", "two", 9, report_age=7.25)]),
            ["store 2 (two:9): no report for 7.2 s", "start it again on its directory: layerwise store"],
        ),
        (replace(WELL, stores=[StoreState(1)]), ["store 1: has not joined this master yet; slaves wait"]),
        (
            replace(WELL, stores=[StoreState(1, "serving", trouble="bytes 0 to 9 are damaged")]),
            ["store 1: bytes 0 to 9 are damaged", "goes back to its newest whole snapshot by itself"],
        ),
        (
            replace(WELL, stores=[StoreState(1, "serving", utilization=Utilization(disk_percent=95))]),
            ["store 1: its disk is 95 % full"],
        ),
        (replace(WELL, snapshot_trouble="3: is torn"), ["snapshots: 3: is torn", "take a new one"]),
        (seated(2, telemetry=replace(LEARNED, loss=math.nan)), ["layer 3: its loss is NaN"]),
        (seated(0, telemetry=OLD_M), ["layer 1: M's gradient has cosine -0.21", '"vfbn"']),
        (replace(WELL, layers=[LayerPushes(2, {0: 50}, 30)]), ["layer 2: 30 of 80 pushes", "bound = 4"]),
        (seated(0, telemetry=replace(OLD_M, fallback=True)), ["layer 1: waits for true gradients"]),
        (
            seated(1, telemetry=replace(LEARNED, refused_from_above=3)),
            ["layer 2: refused 3 messages of layer 3", "see the log of host2:12", "optimizer.learning_rate"],
        ),
        (
            seated(0, telemetry=replace(LEARNED, refused_from_above=3)),
            ["layer 1: refused 3 messages of layer 2 or above"],
        ),
        (replace(WELL, counters=Counters(malformed=2)), ["2 malformed messages were refused"]),
        (replace(WELL, counters=Counters(fenced=1_200)), ["1,200 messages of slaves that"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_what_to_do(status: StatusReply, said: list[str]) -> None:
    text = "\n".join(told(status))
    assert all(part in text for part in said), text


@pytest.mark.parametrize(
    "status",
    [
        # M has not had the time yet, or there is none.
        seated(0, telemetry=replace(OLD_M, steps=150)),
        seated(0, telemetry=replace(OLD_M, gradient_loss=0.0)),
        replace(WELL, layers=[LayerPushes(2, {0: 50}, 2)]),
        replace(VACANT, state="done"),
    ],
)
def test_what_is_not_wrong_is_not_said(status: StatusReply) -> None:
    assert told(status) == []


def test_the_worst_comes_first_and_a_machine_once() -> None:
    seats = [replace(seat, host="one", telemetry=FULL) for seat in VACANT.seats]
    seats[1] = VACANT.seats[1]
    lines = told(replace(WELL, seats=seats, counters=Counters(fenced=1)))
    assert [line.split(":")[0] for line in lines] == [
        "layer 2", "one", "one", "1 messages of slaves that had lost their lease were refused",
    ]  # fmt: skip


@given(
    st.sampled_from(["training", "vacant", "late", "done"]),
    st.builds(
        Telemetry,
        steps=st.integers(0, 10**6),
        loss=st.floats(),
        gradient_loss=st.floats(),
        gradient_cosine=st.floats(),
        delays=st.dictionaries(st.integers(0, 9), st.integers(0, 9)),
        step_seconds=st.floats(0, 1e6),
    ),
)
def test_whatever_a_slave_reports_can_be_shown_and_judged(state: str, telemetry: Telemetry) -> None:
    status = seated(0, state=state, telemetry=telemetry)
    assert all(line.strip() for line in told(status))
    assert slaves_table(status, 80).row_count == slaves_table(status, WIDE).row_count == 3


def standing(*seconds: float, waits: tuple[int, ...] = (1, 2, 3), fresh: tuple[int, ...] = ()) -> StatusReply:
    """No batch for so long, seat by seat; layers of `waits` wait, those of `fresh` have yet to begin."""
    seats = [
        replace(
            seat,
            still_seconds=still,
            begun=seat.layer not in fresh,
            telemetry=replace(LEARNED, waits=seat.layer in waits, step_seconds=5.0),
        )
        for seat, still in zip(SEATS, seconds, strict=True)
    ]
    return replace(WELL, seats=seats)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            standing(21, 22, 23),
            ["the run stands still: no batch for 21 s", "waits for a message: layer 1 (host1:11), layer 2 ("],
        ),
        (
            standing(25, 26, 25, waits=(1, 3)),
            [
                "the run stands still: no batch for 26 s, and layer 2 (host2:12) neither waits",
                "end its process",
            ],
        ),
        (standing(1, 21, 2), ["layer 2 (host2:12): no batch for 21 s, while others go on", "links between"]),
        (standing(1, 21, 2, waits=(1, 3)), ["layer 2 (host2:12): no batch for 21 s", "end its process"]),
        # Layer 1 never began, and the others wait for it.
        (
            standing(301, 40, 40, waits=(2, 3), fresh=(1,)),
            ["no batch for 301 s, and layer 1 (host1:11) neither"],
        ),
    ],
)
def test_a_standstill_is_said_first_and_whose_slave_to_look_at(status: StatusReply, said: list[str]) -> None:
    first = told(status)[0]
    assert all(part in first for part in said), first


@pytest.mark.parametrize(
    "status",
    [
        standing(19, 19, 19),
        # The first layer compiles.
        standing(290, 290, 290, fresh=(1, 2, 3)),
        standing(290, 40, 40, waits=(2, 3), fresh=(1,)),
        replace(standing(60, 60, 60), state="done"),
        # A batch takes eight seconds.
        replace(
            WELL,
            seats=[
                replace(seat, still_seconds=35, begun=True, telemetry=replace(LEARNED, step_seconds=4000.0))
                for seat in SEATS
            ],
        ),
    ],
)
def test_slow_first_batches_and_slow_machines_are_no_standstill(status: StatusReply) -> None:
    assert told(status) == []


FRESH = standing(0, 0.5, 1, fresh=(1, 2, 3))
SLOW = [replace(seat, telemetry=replace(LEARNED, step_seconds=4000.0)) for seat in FRESH.seats]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            replace(FRESH, still_seconds=26.4, successors=1_204),
            ["the run stands still: no progress for 26 s, although 1,204 slaves have taken", "events.jsonl"],
        ),
        (
            replace(FRESH, still_seconds=21, successors=1),
            ["although 1 slave has taken over a seat since then"],
        ),
        # Slaves train and end, again and again, before a push.
        (replace(standing(1, 2, 3), still_seconds=21, successors=4), ["although 4 slaves have taken over"]),
        (replace(FRESH, seats=SLOW, still_seconds=41, successors=4), ["no progress for 41 s"]),
    ],
)
def test_slaves_that_change_in_vain_are_a_standstill_of_the_run(status: StatusReply, said: list[str]) -> None:
    first = told(status)[0]
    assert all(part in first for part in said), first
    assert stands_still(status, CONFIG)
    assert count_standing(status, CONFIG) == 3


@pytest.mark.parametrize(
    "status",
    [
        replace(FRESH, still_seconds=20, successors=4),
        # The first slaves have yet to begin.
        replace(FRESH, still_seconds=60, successors=0),
        replace(FRESH, still_seconds=60, successors=4, state="done"),
        # A batch takes eight seconds.
        replace(FRESH, seats=SLOW, still_seconds=35, successors=4),
    ],
)
def test_slaves_that_change_without_harm_are_no_standstill(status: StatusReply) -> None:
    assert told(status) == []
    assert not stands_still(status, CONFIG)
    assert count_standing(status, CONFIG) == 0


def test_slaves_that_change_in_vain_are_named_also_while_a_seat_is_vacant() -> None:
    seats = [replace(FRESH.seats[0], state="vacant", incarnation=0), *FRESH.seats[1:]]
    status = replace(FRESH, state="waiting", seats=seats, still_seconds=60, successors=2)
    assert [line.split(":")[0] for line in told(status)] == ["layer 1", "the run stands still"]


def test_while_a_seat_is_vacant_the_others_wait_with_reason() -> None:
    status = standing(60, 60, 60)
    seats = [replace(status.seats[0], state="vacant", incarnation=0), *status.seats[1:]]
    assert [line.split(":")[0] for line in told(replace(status, seats=seats, state="waiting"))] == ["layer 1"]


def test_stores_have_a_row_in_the_tables_of_stores_and_machines() -> None:
    status = replace(WELL, stores=[StoreState(1, "serving", "one", 7, shards=["1/weights"]), StoreState(2)])
    assert stores_table(status).row_count == 2
    assert machines_table(status).row_count == 1 + 2 + len(SEATS)
