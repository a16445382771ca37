"""docker-compose.yml for real: it trains in each profile, Prometheus sees all, the killed are replaced."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from tests.integration.processes import ROOT, until

# Not where somebody's own run may be published.
BIND = "127.0.0.77"
PROJECT = "layerwise-test"
# From the last process' first word until Prometheus has scraped it.
SEEN_SECONDS = 20.0
SERVICES = ["master", "slave", "spare", "evaluator", "prometheus"]
IMAGES = ["python:3.11-slim", "prom/prometheus:v2.53.4"]


def missing() -> str:
    """Why this cannot run here; nothing if it can."""
    for tool in ("docker", "docker-compose"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        return "no container engine answers (DOCKER_HOST)"
    for image in IMAGES:
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode:
            return f"there is no image {image} here"
    return ""


WHY = missing()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.skipif(bool(WHY), reason=WHY)]


class Compose:
    """One project of the compose file."""

    def __init__(self, **variables: str) -> None:
        self._environment = {
            **os.environ,
            "LAYERWISE_BIND": BIND,
            "LAYERWISE_BUILD_NETWORK": "host",
            **variables,
        }

    def __call__(self, *arguments: str) -> str:
        """What a docker-compose command says."""
        done = subprocess.run(
            ["docker-compose", "--project-name", PROJECT, *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        return self("ps", "-q", service).split()


def got(path: str, port: int) -> Any:
    """Ask for a page, with the reader's token, which Prometheus does not look at."""
    try:
        token = Compose()("exec", "-T", "master", "cat", "/reader/token")
    except AssertionError:  # the master is starting
        return None
    shown = {"Authorization": f"Bearer {token}"}
    try:
        with urlopen(Request(f"http://{BIND}:{port}{path}", headers=shown), timeout=10) as answer:
            return json.load(answer)
    except (URLError, OSError):
        return None


def up() -> int:
    """How many processes Prometheus has scraped just now."""
    told = got("/api/v1/query?" + urlencode({"query": "up == 1"}), 9090)
    return len(told["data"]["result"]) if told else 0


def present() -> tuple[int, int]:
    """Return the numbers of slaves that train and that wait."""
    told = got("/status", 8080) or {"seats": [], "waiting_slaves": 0}
    return sum(seat["state"] == "training" for seat in told["seats"]), told["waiting_slaves"]


def inspected(container: str, form: str) -> str:
    done = subprocess.run(["docker", "inspect", "--format", form, container], capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def compose(request: pytest.FixtureRequest) -> Iterator[Compose]:
    running = Compose(**request.param)
    try:
        running("up", "--build", "--detach", *SERVICES)
        yield running
    finally:
        running("down", "--volumes", "--timeout", "5")


@pytest.mark.parametrize(
    "compose",
    [{"LAYERWISE_PROFILE": profile, "LAYERWISE_SET": "run.batches=5000"} for profile in ("light", "basic")],
    indirect=True,
    ids=["light", "basic"],
)
def test_it_trains_is_seen_and_heals(compose: Compose, tmp_path: Path) -> None:
    # The master, three slaves and the one that waits: Prometheus sees them all as soon as they are there.
    until(lambda: present() == (3, 1), 300)
    until(lambda: up() == 5, SEEN_SECONDS)
    until(lambda: (got("/status", 8080) or {"batches": 0})["batches"] > 100, 120)
    # Any of the four may be the one that waits: a container's host name is its id.
    trains = next(seat["host"] for seat in got("/status", 8080)["seats"] if seat["incarnation"])
    subprocess.run(["docker", "kill", trains], check=True, capture_output=True)
    until(lambda: sum(seat["grants"] for seat in (got("/status", 8080) or {"seats": []})["seats"]) > 3, 120)
    (evaluator,) = compose.containers("evaluator")
    until(lambda: inspected(evaluator, "{{.State.Status}}") == "exited", 600)
    subprocess.run(["docker", "cp", f"{evaluator}:/runs/run", str(tmp_path)], check=True, capture_output=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_error_percent"] < 5
    assert summary["profile"] == got("/status", 8080)["run"]["profile"]
    for container in compose.containers("master"):
        assert inspected(container, "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}") == "layerwise true"


@pytest.mark.parametrize(
    "compose", [{"LAYERWISE_REPLICAS": "2", "LAYERWISE_SET": "run.batches=100000"}], indirect=True
)
def test_more_slaves_are_more_replicas(compose: Compose) -> None:
    compose("up", "--detach", "--scale", "slave=6", *SERVICES)
    until(lambda: (got("/status", 8080) or {"state": ""})["state"] == "training", 300)
    assert len(got("/status", 8080)["seats"]) == 6
    until(lambda: up() == 8, 120)
