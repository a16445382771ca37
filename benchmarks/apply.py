"""Time for the master to apply a push of 64 MiB of parameters: server optimizers against plain addition.

`python -m benchmarks apply` writes benchmarks/results/apply.json. Times the whole of `Store.apply` on one
thread, on memory-mapped buffers of a state directory, with the push in pieces of 1 MiB as from the wire. The
policies take turns in every round; a ratio is taken within a round, and given as median and quartiles.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.spread import spread
from common import strict_json
from common.optim.optimizers import Settings
from common.shards.pushes import Buffer, Header, Operation
from common.shards.table import lay_out
from common.wire.payloads import CHUNK_BYTES
from master.disk.state import StateDirectory
from master.store.optimizers import ServerOptimizer, use_one_thread
from master.store.policies import Policy, uniform
from master.store.staleness import StalenessRule
from master.store.store import Store

RESULT = Path(__file__).parent / "results" / "apply.json"
NBYTES = 64 << 20
ROUNDS = 9

TABLE = lay_out([("weight", "float32", (NBYTES // 4,), "parameter")])

POLICIES: dict[str, Callable[[], Policy]] = {
    "update (plain add)": Policy,
    "update, scaled": lambda: Policy(2, StalenessRule("scale")),
    "sgd": lambda: _gradient("sgd"),
    "sgd, nesterov": lambda: _gradient("sgd", 0.9, nesterov=True),
    "adagrad": lambda: _gradient("adagrad"),
    "adam": lambda: _gradient("adam"),
    "adamw": lambda: _gradient("adamw"),
    "adagrad, compensated": lambda: replace(
        _gradient("adagrad"), rule=StalenessRule("compensate", strength=0.004)
    ),
}


def _gradient(name: str, momentum: float = 0.0, *, nesterov: bool = False) -> Policy:
    return Policy(2, StalenessRule(), ServerOptimizer(Settings(name, 1e-3, momentum, nesterov)))


class TimedPolicy:
    """A shard under a policy; two slaves push by turns, with a staleness of 1 for every push."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self._operation = policy.operation
        self._store = Store(StateDirectory(folder), uniform(policy))
        self._pieces = _pieces(0)
        self._store.create(Header("1/weights", Operation.CREATE, table=TABLE), self._pieces)
        self._pushes = 0

    def seconds(self) -> float:
        """Apply a push, and return the duration in seconds."""
        sequence, turn = divmod(self._pushes, 2)
        self._pushes += 1
        header = Header("1/weights", self._operation, 0, turn + 1, sequence + 1, table=TABLE)
        began = time.perf_counter()
        reply = self._store.apply(header, self._pieces)
        took = time.perf_counter() - began
        assert reply.applied
        self._store.read("1/weights", turn + 1).release()
        return took


def _pieces(seed: int) -> list[tuple[int, Buffer]]:
    numbers = np.random.default_rng(seed).normal(size=NBYTES // 4).astype(np.float32) * np.float32(1e-3)
    whole = memoryview(numbers.tobytes())
    return [(offset, whole[offset : offset + CHUNK_BYTES]) for offset in range(0, NBYTES, CHUNK_BYTES)]


def measure() -> dict[str, dict[str, Any]]:
    """Measure the milliseconds of a push under each policy, and the ratio to the plain addition."""
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            name: TimedPolicy(Path(folder) / str(i), make())
            for i, (name, make) in enumerate(POLICIES.items())
        }
        # Two uncounted pushes touch both buffers of each shard.
        for _ in range(2):
            for case in cases.values():
                case.seconds()
        rounds = [{name: case.seconds() for name, case in cases.items()} for _ in range(ROUNDS)]
    plain = next(iter(POLICIES))
    return {
        name: {
            "milliseconds": spread([1e3 * each[name] for each in rounds], 1),
            "of_plain_add": spread([each[name] / each[plain] for each in rounds], 2),
        }
        for name in POLICIES
    }


def main() -> None:
    """Measure, print and write the results."""
    use_one_thread()
    cases = measure()
    for name, case in cases.items():
        milliseconds, ratio = case["milliseconds"]["median"], case["of_plain_add"]["median"]
        print(f"{name:24} {milliseconds:7.1f} ms  {ratio:5.2f} x a plain add")
    result = {
        "command": "python -m benchmarks apply", "torch": torch.__version__, "nbytes": NBYTES,
        "rounds": ROUNDS, "threads": 1, "cases": cases,
    }  # fmt: skip
    RESULT.write_text(strict_json.encode(result, indent=1) + "\n")
