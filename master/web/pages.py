"""The pages of a master, by their paths."""

from __future__ import annotations

import dataclasses
import json
import socket
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from common.net.addresses import is_unspecified, split_address
from common.observe import metrics
from common.observe.problems import problems
from common.observe.web import Page, Pages
from master.web.history import History, throughput
from master.web.scrape import scraped

if TYPE_CHECKING:
    from master.service import Master

# The path of each file of the live page, and its type.
STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/uPlot.iife.min.js": ("uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/uPlot.min.css": ("uPlot.min.css", "text/css; charset=utf-8"),
}


def pages(master: Master, history: History) -> Pages:
    """What a master shows."""
    dynamic: Pages = {
        "/healthz": lambda: Page(b"ok\n"),
        "/metrics": lambda: Page(scraped(master), metrics.CONTENT_TYPE),
        "/status": lambda: _json(status(master)),
        "/history": lambda: _json({"moments": history.columns(), "events": list(master.state.recent)}),
        "/targets": lambda: _json(targets(master)),
    }
    return {**dynamic, **{path: _Static(*file) for path, file in STATIC.items()}}


def status(master: Master) -> dict[str, Any]:
    """What `layerwise status --json` says, and what the run is."""
    config, reply = master.config, master.status()
    run = {
        "dataset": config.data.dataset,
        "model": config.network.model,
        "batch_size": config.run.batch_size,
        "profile": config.cluster.profile,
        "synthesis": config.cluster.synthesis,
        "unlock": config.decoupling.unlock,
        "gradient": config.decoupling.gradient if config.decoupling.unlock != "none" else None,
    }
    wrong = problems(reply, config, _address(master))
    return {
        **dataclasses.asdict(reply),
        "run": run,
        "samples_per_second": throughput(reply),
        "problems": [dataclasses.asdict(problem) for problem in wrong],
    }


def _address(master: Master) -> str:
    """Where slaves reach the master: by the machine's name, if it listens everywhere."""
    host, port = split_address(master.state.read("address") or "localhost:0")
    return f"{socket.gethostname() if is_unspecified(host) else host}:{port}"


def targets(master: Master) -> list[dict[str, Any]]:
    """Every slave that shows its metrics, for Prometheus' HTTP service discovery."""
    return [
        {"targets": [slave.metrics], "labels": {"host": slave.host}}
        for slave in master.roster.slaves()
        if slave.metrics
    ]


class _Static:
    """A file of the package."""

    def __init__(self, name: str, content_type: str) -> None:
        self._name = name
        self._type = content_type

    def __call__(self) -> Page:
        return Page(_read(self._name), self._type)


@cache
def _read(name: str) -> bytes:
    return (resources.files("master.web") / "static" / name).read_bytes()


def _json(value: Any) -> Page:
    return Page(json.dumps(value).encode(), "application/json")
