"""M in the master learns exactly as in a slave, and the shard of M is versioned like the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from torch import Tensor

from common import synthesizers, tasks
from common.config.files import load
from common.config.sections import Config
from common.data.targets import Targets
from common.errors import ConfigError, FencedError, MalformedError, TooLargeError
from common.optim.lessons import teach
from common.optim.stepper import Stepper
from common.shards.flat import Flat, pack, state_dict
from common.shards.working_copy import WorkingCopy
from common.signals.forms import TensorForm
from common.wire import methods
from common.wire.messages import HeartbeatRequest, SynthesisKind, SynthesisMessage
from common.wire.payloads import encode_synthesis
from master.store.policies import policies
from master.store.store import Memory, Store
from master.synthesis.served import Synthesis
from protos import layerwise_pb2 as pb
from tests.classifying import classifying
from tests.master.served import Served, Stream, served

ASK, LEARN, SETTLE = SynthesisKind.ASK, SynthesisKind.LEARN, SynthesisKind.SETTLE
B, D, CLASSES = 8, 6, 10
SERVED = ("cluster.synthesis=master", f"run.batch_size={B}", "downpour.n_push=4")


def configured(*settings: str) -> Config:
    return load(None, ["network.cuts=[1, 2]", *SERVED, *settings])


def stored(config: Config) -> Store:
    return Store(Memory(), policies(config))


def drawn(batch: int, shape: tuple[int, ...] = (D,)) -> dict[str, Tensor]:
    """h, y and delta of a batch."""
    generator = torch.Generator().manual_seed(batch)
    h, delta = (torch.randn((B, *shape), generator=generator) for _ in range(2))
    return {"h": h, "y": torch.randint(0, CLASSES, (B,), generator=generator), "delta": delta}


def said(kind: SynthesisKind, batch: int = 0, incarnation: int = 0, **changed: Any) -> SynthesisMessage:
    """A slave's message of a batch; `changed` are tensors, or fields of the message."""
    fields = {name: changed.pop(name) for name in ("classes", "synthesizer") if name in changed}
    names = {ASK: ("h", "y"), LEARN: ("h", "y", "delta")}.get(kind, ())
    tensors = {name: tensor for name, tensor in drawn(batch).items() if name in names} | changed
    table, data = pack({name: tensor for name, tensor in tensors.items() if tensor is not None})
    message = SynthesisMessage(kind, "gradient", batch, incarnation, CLASSES, table=table, data=data)
    return replace(message, **fields)


def delta_of(answer: SynthesisMessage | None) -> Tensor:
    assert answer is not None
    assert answer.kind is SynthesisKind.SYNTHETIC
    return state_dict(answer.table, answer.data)["delta"]


def in_a_slave(config: Config, k: int, batches: int) -> tuple[Flat, synthesizers.GradientSynthesizer]:
    """Train M as a slave does, on equal lessons, with a separate store."""
    module, store = synthesizers.initial(config, k, (D,), classifying(CLASSES)), stored(config)
    flat = Flat(module)
    stepper = Stepper(flat, config.optimizer.synthesizer, config.run.batches)
    copy = WorkingCopy(f"{k}/gradient", flat, config.downpour.first_n_push, 1)
    store.create(copy.initial().header, [(0, copy.initial().buffer.data)])
    reading = store.read(copy.name)
    copy.begin(reading.header, reading.buffer)
    reading.release()
    for batch in range(batches):
        teach(module.learn, stepper, batch, config.lesson_steps, *drawn(batch).values())
        last = batch == batches - 1
        push = (copy.flush if last else copy.due)(stepper.steps, batch + 1)
        if push:
            copy.answered(store.apply(push.header, [(0, push.buffer.data)]))
    return flat, module


def asked(synthesis: Synthesis, k: int, batch: int) -> Tensor:
    return delta_of(synthesis.answer(k, said(ASK, batch)))


def own(module: synthesizers.GradientSynthesizer, batch: int) -> Tensor:
    return module.gradient(drawn(batch)["h"], drawn(batch)["y"])


def held(store: Store, shard: str) -> tuple[int, bytes]:
    reading = store.read(shard)
    try:
        return reading.header.version, bytes(reading.buffer)
    finally:
        reading.release()


# --- what it comes to -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        ["decoupling.gradient=vfbn"],
        ["decoupling.gradient=cdni"],
        ["decoupling.gradient=dni", "decoupling.gradient_options={hidden=[5]}"],
    ],
    ids=["vfbn", "cdni", "dni with BN"],
)
def test_m_comes_to_the_very_numbers_that_it_comes_to_in_a_slave(method: list[str]) -> None:
    # Several replicas ask one M: its running statistics are not divided among them.
    config = configured(*method, "downpour.replicas=2")
    store = stored(config)
    synthesis = Synthesis(config, store)
    assert torch.equal(asked(synthesis, 2, 77), own(in_a_slave(config, 2, 0)[1], 77))
    for batch in range(10):
        assert synthesis.answer(2, said(LEARN, batch)) is None
    assert store.versions() == {"2/gradient": 2}
    answer = synthesis.answer(2, said(SETTLE))
    assert answer is not None
    assert answer.kind is SynthesisKind.SETTLED
    flat, module = in_a_slave(config, 2, 10)
    assert torch.equal(asked(synthesis, 2, 77), own(module, 77))
    assert held(store, "2/gradient") == (3, flat.buffer.numpy().tobytes())
    assert store.next_batch("2/gradient") == 10


def test_the_loss_of_the_last_lesson_comes_with_the_next_answer() -> None:
    synthesis = Synthesis(configured(), stored(configured()))
    first = synthesis.answer(1, said(ASK))
    synthesis.answer(1, said(LEARN))
    second = synthesis.answer(1, said(ASK))
    assert first is not None
    assert second is not None
    assert (first.loss, second.loss > 0) == (0.0, True)


def test_another_master_goes_on_from_the_shard() -> None:
    config = configured()
    store = stored(config)
    before = Synthesis(config, store)
    for batch in range(9):
        before.answer(1, said(LEARN, batch))
    # Killed: what was learned since the second push is gone, and no more.
    after = Synthesis(config, store)
    assert torch.equal(asked(after, 1, 5), own(in_a_slave(config, 1, 8)[1], 5))
    for batch in range(9, 13):
        after.answer(1, said(LEARN, batch))
    assert store.versions() == {"1/gradient": 3}


def test_i_is_served_as_m_is_in_a_shard_of_its_own() -> None:
    config = configured("decoupling.unlock=full", "downpour.n_push=1")
    store = stored(config)
    synthesis = Synthesis(config, store)
    x, h = torch.randn(B, 4), torch.randn(B, D)
    here = synthesizers.initial_input(config, 2, TensorForm((4,)), (D,))

    def of_i(kind: SynthesisKind, **tensors: Tensor) -> SynthesisMessage:
        table, data = pack(tensors)
        return SynthesisMessage(kind, "input", 7, shape=[D], table=table, data=data)

    answer = synthesis.answer(2, of_i(ASK, x=x))
    assert answer is not None
    assert torch.equal(state_dict(answer.table, answer.data)["h"], here.predict(x))
    for wrong in (of_i(ASK, x=x, h=h), of_i(LEARN, x=x, h=torch.randn(B, D + 1)), of_i(ASK, x=x[1:])):
        with pytest.raises(MalformedError):
            synthesis.answer(2, wrong)
    with pytest.raises(MalformedError, match="no synthesizer"):
        synthesis.answer(1, of_i(ASK, x=x))
    synthesis.answer(2, of_i(LEARN, x=x, h=h))
    again = synthesis.answer(2, of_i(ASK, x=x))
    assert again is not None
    assert again.loss == pytest.approx(float(here.learn(x, h)))
    assert again.data != answer.data
    synthesis.answer(2, said(ASK))
    assert store.versions() == {"2/gradient": 0, "2/input": 1}


def test_settle_brings_in_every_layers_and_nothing_twice() -> None:
    config = configured()
    store = stored(config)
    synthesis = Synthesis(config, store)
    synthesis.answer(1, said(SETTLE))
    assert store.versions() == {}
    for k in (1, 2):
        synthesis.answer(k, said(LEARN))
    for _ in range(2):
        synthesis.settle()
        assert store.versions() == {"1/gradient": 1, "2/gradient": 1}


@pytest.mark.parametrize("shape", [(), (3,)])
def test_m_in_the_master_learns_a_regression_as_in_a_slave(shape: tuple[int, ...]) -> None:
    config = configured("task.kind=regression")
    here = synthesizers.initial(config, 1, (D,), tasks.build(config.task, Targets(0, shape)))
    there, y = Synthesis(config, stored(config)), torch.randn(B, *shape)
    question = said(ASK, classes=0, y=y)
    expected = here.gradient(drawn(0)["h"], y)
    torch.testing.assert_close(delta_of(there.answer(1, question)), expected)
    there.answer(1, said(LEARN, classes=0, y=y))
    assert not torch.equal(delta_of(there.answer(1, question)), expected)


# --- what is refused --------------------------------------------------------------------------------------


WRONG: list[tuple[int, SynthesisMessage]] = [
    (3, said(ASK)),
    (1, said(ASK, synthesizer="weights")),
    (1, said(SynthesisKind.SYNTHETIC)),
    (1, said(SynthesisKind.SYNTHESIS_KIND_UNSPECIFIED)),
    (1, said(ASK, y=None)),
    (1, said(LEARN, delta=None)),
    (1, said(ASK, delta=torch.zeros(B, D))),
    (1, said(ASK, h=torch.zeros(B, D, dtype=torch.float64))),
    (1, said(ASK, y=torch.zeros(B))),
    (1, said(ASK, h=torch.zeros(B + 1, D))),
    (1, said(ASK, h=torch.zeros(B), y=torch.zeros(B, dtype=torch.int64))),
    (1, said(ASK, y=torch.full((B,), CLASSES))),
    (1, said(ASK, y=torch.full((B,), -1))),
    (1, said(ASK, classes=0)),
    (1, said(ASK, classes=0, y=torch.zeros(B))),
    (1, said(ASK, classes=CLASSES + 1)),
    (1, said(ASK, h=torch.zeros(B, D + 1))),
    (1, said(ASK, h=torch.zeros(B, 1, 2, 3))),
    (1, said(LEARN, delta=torch.zeros(B, D + 1))),
    (1, said(LEARN, delta=torch.full((B, D), torch.nan))),
    (1, said(LEARN, delta=torch.full((B, D), torch.inf))),
    (1, said(LEARN, h=torch.full((B, D), torch.nan))),
]


def test_what_is_wrong_is_refused_and_changes_nothing() -> None:
    config = configured("downpour.n_push=1")
    store = stored(config)
    synthesis = Synthesis(config, store)
    synthesis.answer(1, said(LEARN))
    before, answer = held(store, "1/gradient"), delta_of(synthesis.answer(1, said(ASK, 1)))
    for k, message in WRONG:
        with pytest.raises(MalformedError):
            synthesis.answer(k, message)
    assert held(store, "1/gradient") == before
    assert torch.equal(delta_of(synthesis.answer(1, said(ASK, 1))), answer)
    assert list(store.versions()) == ["1/gradient"]


def test_an_m_larger_than_any_run_has_is_refused_before_its_memory_is_taken() -> None:
    config = configured("decoupling.gradient=dni")
    h = torch.zeros(B, 1 << 20)
    with pytest.raises(TooLargeError, match="would take"):
        Synthesis(config, stored(config)).answer(1, said(ASK, h=h))


def test_an_m_that_comes_to_nan_goes_back_to_its_shard() -> None:
    steep = ("optimizer.synthesizer.name=sgd", "optimizer.synthesizer.learning_rate=1e6")
    config = configured("downpour.n_push=1", *steep)
    store = stored(config)
    synthesis = Synthesis(config, store)
    answer = delta_of(synthesis.answer(1, said(ASK)))
    with pytest.raises(MalformedError, match="NaN or Inf"):
        synthesis.answer(1, said(LEARN, delta=torch.full((B, D), 1e38)))
    assert torch.equal(delta_of(synthesis.answer(1, said(ASK))), answer)
    assert store.versions() == {"1/gradient": 0}


def test_what_was_learned_before_a_rollback_does_not_come_in_after_it() -> None:
    config = configured()
    store = stored(config)
    synthesis = Synthesis(config, store)
    for batch in range(5):
        synthesis.answer(1, said(LEARN, batch))
    synthesis.end()
    for message in (said(LEARN), said(ASK), said(SETTLE)):
        with pytest.raises(FencedError):
            synthesis.answer(1, message)
    with pytest.raises(FencedError):
        synthesis.settle()
    assert store.versions() == {"1/gradient": 1}


def test_served_synthesis_without_an_m_is_refused() -> None:
    for unlock in ("none", "delayed", "local"):
        with pytest.raises(ConfigError, match=r"cluster\.synthesis: unknown key"):
            load(None, ["cluster.synthesis=master", f"decoupling.unlock={unlock}"])


# --- served -----------------------------------------------------------------------------------------------


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, *SERVED) as running:
        yield running


def conversing(master: Served) -> Stream:
    """Open a stream by generated classes alone, as in any language."""
    return Stream(
        master.channel.stream_stream(
            "/layerwise.v1.Synthesis/Synthesize", encode_synthesis, pb.SynthesisMessage.FromString
        ),
        lambda message: master.shown(message.incarnation).metadata(),
    )


def refusal(stream: Stream) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        stream.read()
    return caught.value.code()


def test_a_stream_asks_tells_and_settles(master: Served) -> None:
    mine = master.join("a").incarnation
    with conversing(master) as stream:
        stream.write(said(ASK, 3, mine))
        answer = stream.read()
        assert (answer.kind, answer.batch) == (pb.SYNTHETIC, 3)
        assert [(t.name, tuple(t.shape)) for t in answer.table.tensors] == [("delta", (B, D))]
        stream.write(*(said(LEARN, batch, mine) for batch in range(5)), said(SETTLE, 0, mine))
        assert stream.read().kind == pb.SETTLED
    assert master.master.status().versions == {"1/gradient": 2}


def test_a_fenced_slaves_question_is_refused_and_counted(master: Served) -> None:
    old = master.join("a").incarnation
    with conversing(master) as stream:
        stream.write(said(ASK, 0, old))
        stream.read()
        master.leave(old)
        stream.write(said(LEARN, 0, old))
        assert refusal(stream) is grpc.StatusCode.ABORTED
    assert master.master.status().counters.fenced == 1


def test_a_question_of_another_h_is_refused_and_the_layers_others_go_on(master: Served) -> None:
    mine = master.join("a").incarnation
    with conversing(master) as good, conversing(master) as bad:
        good.write(said(ASK, 0, mine))
        good.read()
        bad.write(said(ASK, 0, mine, h=torch.zeros(B, D + 1)))
        assert refusal(bad) is grpc.StatusCode.INVALID_ARGUMENT
        good.write(said(ASK, 1, mine))
        assert good.read().batch == 1
    assert master.master.status().counters.malformed == 1


def test_where_m_runs_in_the_slaves_a_question_is_refused(tmp_path: Path) -> None:
    with served(tmp_path, f"run.batch_size={B}") as master, conversing(master) as stream:
        stream.write(said(ASK, 0, master.join("a").incarnation))
        assert refusal(stream) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_heartbeat_does_not_wait_behind_m(master: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, go = master.join("a").incarnation, threading.Event()
    answer = Synthesis.answer

    def slow(self: Synthesis, k: int, message: SynthesisMessage) -> SynthesisMessage | None:
        assert go.wait(20)
        return answer(self, k, message)

    monkeypatch.setattr(Synthesis, "answer", slow)
    with conversing(master) as stream:
        stream.write(said(ASK, 0, mine))
        master.call(methods.HEARTBEAT, HeartbeatRequest(mine, 1))
        go.set()
        assert stream.read().kind == pb.SYNTHETIC


def test_a_rollback_takes_m_with_it(master: Served) -> None:
    mine = master.join("a").incarnation
    with conversing(master) as stream:
        stream.write(*(said(LEARN, batch, mine) for batch in range(4)), said(ASK, 9, mine))
        kept = stream.read()
        number = master.do(master.master.scheduler.take()).number
        stream.write(*(said(LEARN, batch, mine) for batch in range(4, 12)), said(ASK, 9, mine))
        assert stream.read().data != kept.data
        master.do(master.master.scheduler.roll_back(number))
        stream.write(said(LEARN, 12, mine))
        assert refusal(stream) is grpc.StatusCode.ABORTED
    assert master.master.status().versions == {"1/gradient": 1}
    again = master.join("a").incarnation
    with conversing(master) as stream:
        stream.write(said(ASK, 9, again))
        assert stream.read().data == kept.data


def test_a_master_that_is_stopped_brings_in_what_m_has_learned(master: Served) -> None:
    mine = master.join("a").incarnation
    with conversing(master) as stream:
        stream.write(said(LEARN, 0, mine), said(ASK, 1, mine))
        stream.read()
    assert master.master.status().versions == {"1/gradient": 0}
    assert master.master.synthesis
    master.do(master.master.synthesis.settle())
    assert master.master.status().versions == {"1/gradient": 1}


def test_many_slaves_at_once_are_all_answered(master: Served) -> None:
    mine = [master.join(name).incarnation for name in "ab"]

    def talk(incarnation: int) -> int:
        with conversing(master) as stream:
            for batch in range(20):
                stream.write(said(ASK, batch, incarnation))
                assert stream.read().batch == batch
                stream.write(said(LEARN, batch, incarnation))
            stream.write(said(SETTLE, 0, incarnation))
            return int(stream.read().kind)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(talk, mine)) == [pb.SETTLED] * 2
    assert master.master.status().versions == {"1/gradient": 5, "2/gradient": 5}
