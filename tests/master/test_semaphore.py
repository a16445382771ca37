"""Permits are bounded, and go to threads in the order of requests."""

from __future__ import annotations

import queue
import threading

from master.semaphore import FairSemaphore

DEADLINE = 20.0


def test_permits_are_bounded_and_granted_in_order() -> None:
    semaphore, entered = FairSemaphore(2), queue.SimpleQueue[int]()
    leave = [threading.Event() for _ in range(6)]

    def hold(number: int) -> None:
        with semaphore.hold():
            entered.put(number)
            leave[number].wait(DEADLINE)

    threads = []
    for number in range(6):
        threads.append(threading.Thread(target=hold, args=(number,)))
        threads[-1].start()
        if number < 2:
            assert entered.get(timeout=DEADLINE) == number
        else:
            while len(semaphore._waiting) < number - 1:
                assert threads[-1].is_alive()
    for number in (1, 0, 3, 2):
        assert entered.empty()
        leave[number].set()
        assert entered.get(timeout=DEADLINE) == {1: 2, 0: 3, 3: 4, 2: 5}[number]
    for event in leave:
        event.set()
    for thread in threads:
        thread.join(DEADLINE)


def test_a_permit_comes_back_when_its_holder_fails() -> None:
    semaphore = FairSemaphore(1)
    for _ in range(2):
        try:
            with semaphore.hold():
                raise ValueError
        except ValueError:
            pass
    assert semaphore._free == 1
