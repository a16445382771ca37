"""slave.training.served: M in the master, called by the slave over a network that breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common import synthesizers
from common.errors import FencedError, LayerwiseError, MalformedError, UnreachableError
from common.net import addresses
from common.signals.forms import TensorForm
from common.wire.boundary import Message
from common.wire.messages import JoinReply, SynthesisKind, SynthesisMessage, Telemetry
from master.store.policies import policies
from master.store.store import Memory, Store
from master.synthesis.served import Synthesis
from slave.network.endpoint import Endpoint
from slave.network.meter import Meter
from slave.network.network import Network
from slave.training.health import Health
from slave.training.served import ServedPredictor, ServedSynthesizer
from tests.classifying import classifying
from tests.faults.proxy import Proxy
from tests.master.served import Served, served
from tests.master.synthesis.test_synthesis import (
    ASK,
    CLASSES,
    LEARN,
    SERVED,
    D,
    configured,
    delta_of,
    drawn,
    said,
)

SETTLE = SynthesisKind.SETTLE


class Direct:
    """A master without a network in between."""

    def __init__(self, *settings: str) -> None:
        self.config = config = configured(*settings)
        self.synthesis = Synthesis(config, Store(Memory(), policies(config)))

    def ask(self, question: SynthesisMessage) -> SynthesisMessage:
        answer = self.synthesis.answer(2, question)
        assert answer is not None
        return answer

    def tell(self, lesson: SynthesisMessage) -> None:
        assert self.synthesis.answer(2, lesson) is None


def test_m_in_the_master_has_the_face_of_m_here_and_its_health() -> None:
    direct, health = Direct(), Health()
    m = ServedSynthesizer(direct, 1, CLASSES, health)
    here = synthesizers.initial(configured(), 2, (D,), classifying(CLASSES))
    batch = drawn(0)
    synthetic = m.gradient(0, batch["h"], batch["y"])
    assert torch.equal(synthetic, here.gradient(batch["h"], batch["y"]))
    m.learn(0, batch["h"], batch["y"], synthetic, batch["delta"])
    cosine = torch.nn.functional.cosine_similarity(synthetic.flatten(), batch["delta"].flatten(), dim=0)
    assert health.gradient_cosine == pytest.approx(float(cosine), rel=1e-4)
    assert health.gradient_loss == 0.0
    after = m.gradient(1, batch["h"], batch["y"])
    assert not torch.equal(after, synthetic)
    for number in range(1, 9):  # a look later
        m.learn(number, batch["h"], batch["y"], None, batch["delta"])
    assert health.gradient_loss == pytest.approx(float(here.learn(**batch)), rel=0.5)


def test_i_in_the_master_has_the_face_of_i_here_and_its_health() -> None:
    direct, health = Direct("decoupling.unlock=full"), Health()
    i = ServedPredictor(direct, 1, 0, (D,), health)
    x, h = torch.randn(8, 4), torch.randn(8, D)
    here = synthesizers.initial_input(direct.config, 2, TensorForm((4,)), (D,))
    assert torch.equal(i.predict(0, x), here.predict(x))
    i.learn(0, x, h)
    assert not torch.equal(i.predict(1, x), here.predict(x))
    for batch in range(1, 9):  # a look later
        i.learn(batch, x, h)
    assert health.input_loss == pytest.approx(float(here.learn(x, h)))


def test_an_answer_to_another_question_is_refused() -> None:
    class Wrong(Direct):
        def ask(self, question: SynthesisMessage) -> SynthesisMessage:
            del question
            return super().ask(said(ASK))

    with pytest.raises(MalformedError, match="answered SYNTHETIC"):
        ServedSynthesizer(Wrong(), 1, CLASSES, Health()).gradient(0, torch.zeros(3, 2), torch.zeros(3).long())


# --- over the network -------------------------------------------------------------------------------------


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, *SERVED) as running:
        yield running


class Connected:
    """A slave's network under a lease of layer 1."""

    def __init__(self, address: str, lease: JoinReply, patience: float = 20.0) -> None:
        self.lease = lease
        self.endpoint = Endpoint(address)
        self.network = Network(self.endpoint, lease, 0.2, patience, Telemetry, Meter())
        self.network.start()
        self.network.converse()

    def close(self) -> None:
        self.network.close()
        self.endpoint.close()

    def asked(self, kind: SynthesisKind, batch: int) -> SynthesisMessage:
        return self.network.ask(said(kind, batch, self.lease.incarnation))


def test_a_question_is_answered_after_the_lessons_before_it(master: Served) -> None:
    slave = Connected(master.address, master.join("a"))
    try:
        for batch in range(8):
            slave.network.tell(said(LEARN, batch, slave.lease.incarnation))
        assert slave.asked(ASK, 8).loss > 0
        assert slave.asked(SETTLE, 0).kind is SynthesisKind.SETTLED
        assert master.master.status().versions == {"1/gradient": 2}
    finally:
        slave.close()


def test_a_question_whose_answer_was_lost_is_asked_again(master: Served) -> None:
    with Proxy(lambda: addresses.split_address(master.address)) as proxy:
        slave = Connected(proxy.address, master.join("a"))
        try:
            expected = delta_of(slave.asked(ASK, 1))
            proxy.swallow()
            slave.network.tell(said(LEARN, 2, slave.lease.incarnation))
            slave.network._outgoing.put(said(ASK, 3, slave.lease.incarnation))
            _until(lambda: master.master.run.tally.bytes_received > 3 * len(said(ASK).data))
            proxy.restore()
            answer = slave.network._answers.get(timeout=20)
            assert isinstance(answer, SynthesisMessage)
            assert (answer.kind, answer.batch) == (SynthesisKind.SYNTHETIC, 3)
            assert not torch.equal(delta_of(slave.asked(ASK, 1)), expected)
        finally:
            slave.close()


def test_who_waits_for_an_answer_learns_that_its_lease_is_gone(master: Served) -> None:
    slave = Connected(master.address, master.join("a"))
    try:
        slave.asked(ASK, 0)
        master.leave(slave.lease.incarnation)
        with pytest.raises(FencedError):
            slave.asked(ASK, 1)
    finally:
        slave.close()


def test_who_waits_for_a_master_that_is_away_waits_so_long_and_no_longer(master: Served) -> None:
    lease = master.join("a")
    slave = Connected(master.address, lease, patience=0.5)
    try:
        slave.asked(ASK, 0)
        master.do(master.ports.control.stop(0))
        with pytest.raises(UnreachableError):
            slave.asked(ASK, 1)
    finally:
        slave.close()


def test_who_waits_for_an_answer_can_be_stopped(master: Served) -> None:
    class StopError(Exception):
        pass

    slave = Connected(master.address, master.join("a"))
    try:
        slave.network.deliver(StopError())
        with pytest.raises(StopError):
            slave.network.ask(said(SynthesisKind.LEARN, 0, slave.lease.incarnation))
    finally:
        slave.close()


def test_a_defect_of_the_sender_thread_ends_the_slave(master: Served) -> None:
    slave = Connected(master.address, master.join("a"))
    try:
        no_message: Message = None  # type: ignore[assignment]
        slave.network._outgoing.put((no_message,))  # type: ignore[arg-type]
        event = slave.network.inbox.get(timeout=20)
        while not isinstance(event, LayerwiseError):
            event = slave.network.inbox.get(timeout=20)
        assert event.exit_code == 4
        assert "the sender thread failed: AttributeError" in str(event)
    finally:
        slave.close()


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_stream_nothing_is_left_running(master: Served) -> None:
    slave = Connected(master.address, master.join("a"))
    slave.close()
    assert not asyncio.all_tasks(slave.endpoint.loop)
