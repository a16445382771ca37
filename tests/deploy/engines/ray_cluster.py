"""Ray for real on this machine: a head and nodes that share the machine, in a process that lines control.

`python -m tests.deploy.engines.ray_cluster FOLDER` prints the address when the nodes are up. Then each line
of input is a command: `kill` kills a node that is not the head, `used` prints the cores in use. The end of
the input ends the cluster.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NODES, CPUS = 3, 2
TRIES = 5
# Without what the test has no use for, as idle workers.
_LEAN = {
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",
}


def why_not() -> str:
    """Return why Ray cannot run here; nothing if it can."""
    return "" if importlib.util.find_spec("ray") else "the package ray is not installed"


class RayCluster:
    """A cluster of its own process; `environment` is that of the nodes and of what actors start."""

    def __init__(self, environment: dict[str, str]) -> None:
        # Sockets lie there: a test's own folder has too long a name.
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.deploy.engines.ray_cluster", self._folder.name],
            env={**environment, **_LEAN, "RAY_ADDRESS": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        self.address = self._read("address")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._folder.cleanup()

    def kill_node(self) -> None:
        """Kill every process of a node that is not the head."""
        self._ask("kill")

    def used(self) -> float:
        """Return the number of cores that Ray has given away."""
        return float(self._ask("used"))

    def _ask(self, command: str) -> str:
        assert self._process.stdin
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._read(command)

    def _read(self, word: str) -> str:
        lines = []
        assert self._process.stdout
        for line in self._process.stdout:
            lines.append(line)
            if line.startswith(f"{word}: "):
                return line.partition(": ")[2].strip()
        raise AssertionError("".join(lines))


def serve(folder: Path) -> None:
    """Run a cluster until the input ends."""
    from ray.cluster_utils import Cluster

    place: dict[str, Any] = {"num_cpus": CPUS, "temp_dir": str(folder), "include_log_monitor": False}
    cluster, failures = Cluster(), 0
    while len(cluster.list_all_nodes()) < NODES:
        head: dict[str, Any] = {} if cluster.head_node else {"include_dashboard": False, "no_monitor": True}
        try:
            cluster.add_node(**place, **head)
        except Exception:
            # A node gives up when its agents have not come within seconds, as on a busy machine.
            failures += 1
            if failures > TRIES:
                raise
    cluster.wait_for_nodes()
    print(f"address: {cluster.address}", flush=True)
    for command in sys.stdin:
        word, done = command.strip(), "done"
        if word == "kill":
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        else:
            state = cluster.global_state
            done = str(state.cluster_resources()["CPU"] - state.available_resources().get("CPU", 0.0))
        print(f"{word}: {done}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    # Children of killed nodes would stay as zombies of a process that nobody waits for.
    serve(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
