"""Commands and places of the processes in the project's image, for docker-compose.yml and Kubernetes alike.

`docker-compose.yml` is written by hand; `tests/deploy/test_containers.py` compares its commands with these.
"""

from __future__ import annotations

from collections.abc import Sequence

IMAGE = "layerwise:local"
# User of the image, with the group of the same number.
USER = 10001
CONTROL_PORT, DATA_PORT, PAGES_PORT = 50051, 50052, 8080
CONFIG = "/etc/layerwise/run.toml"
STATE, RUNS, CACHE = "/state", "/runs", "/cache"
READER_TOKEN = "/reader/token"  # noqa: S105 - a place, no secret
RUN = f"{RUNS}/run"
HEALTH = "/healthz"
# Time for the last pushes and the last snapshot, from the signal to the end.
GRACE_SECONDS = 30


def master_command(state: str, rights: Sequence[str]) -> list[str]:
    """Return the arguments of a master.

    Args:
        state: its directory.
        rights: options of tokens or certificates.
    """
    return [
        "master",
        CONFIG,
        f"--listen=0.0.0.0:{CONTROL_PORT}",
        f"--bulk-port={DATA_PORT}",
        f"--web=0.0.0.0:{PAGES_PORT}",
        "--insecure",
        f"--state-dir={state}",
        *rights,
    ]


def store_command(master: str, state: str, rights: Sequence[str]) -> list[str]:
    """Return the arguments of a store; `master` is the name of the master's host, `state` its directory."""
    return [
        "store",
        f"--master={master}:{CONTROL_PORT}",
        f"--listen=0.0.0.0:{DATA_PORT}",
        f"--metrics=0.0.0.0:{PAGES_PORT}",
        "--insecure",
        f"--state-dir={state}",
        *rights,
    ]


def slave_command(master: str, rights: Sequence[str]) -> list[str]:
    """Return the arguments of a slave; `master` is the name of the master's host."""
    return [
        "slave",
        f"--master={master}:{CONTROL_PORT}",
        f"--metrics=0.0.0.0:{PAGES_PORT}",
        "--insecure",
        *rights,
    ]


def evaluator_command(master: str, rights: Sequence[str]) -> list[str]:
    """Return the arguments of the evaluator, which ends with the run."""
    return ["evaluate", f"--master={master}:{CONTROL_PORT}", *rights, "--watch", RUN]
