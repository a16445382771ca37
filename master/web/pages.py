"""Pages of a master: live page, metrics, status, history, configuration, scrape targets."""

from __future__ import annotations

import socket
import time
from functools import cache, partial
from importlib import resources
from typing import Any

from common import strict_json
from common.config import files
from common.errors import ConfigError
from common.net.addresses import is_loopback, is_unspecified, reachable_address, split_address
from common.net.listening import join_address
from common.observe import metrics
from common.observe.health import health_page
from common.observe.joining import slave_command
from common.observe.problems import problems
from common.observe.visits import Visit, current_visit
from common.observe.web import SECURE_PAGES, Page, Pages
from master.web.history import History, throughput
from master.web.layers import MEASURES
from master.web.repeating import describe_commands
from master.web.scrape import scrape
from master.web.view import Showing, View

SCRIPTS = ("page", "format", "network", "charts", "layers", "earlier", "about")
# Files of the live page and their content types, by path.
STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/uPlot.iife.min.js": ("uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/uPlot.min.css": ("uPlot.min.css", "text/css; charset=utf-8"),
}


def pages(view: View, history: History) -> Pages:
    """Build a master's pages, by path."""
    dynamic: Pages = {
        "/healthz": lambda: health_page(view.pulses()),
        "/metrics": lambda: Page(scrape(view), metrics.CONTENT_TYPE),
        "/status": lambda: _json(describe(view)),
        "/history": lambda: _json(
            {"moments": history.columns(time.time() - time.monotonic()), "events": view.events()}
        ),
        "/commands": lambda: _json(describe_commands(view.config, _slave_command(view))),
        "/config": lambda: Page(files.describe(view.config.shared).encode()),
        "/targets": lambda: _json(targets(view, current_visit(), socket.gethostname())),
    }
    by_layer = {f"/layers/{name}": partial(_layers, history, name) for name in MEASURES}
    return {**dynamic, **by_layer, **{path: _Static(*file) for path, file in STATIC.items()}}


def describe(view: View) -> dict[str, Any]:
    """Describe the run: the content of `layerwise status --json`, and the configuration in short.

    Raises:
        ConfigError: the view's address is not HOST:PORT.
    """
    config, reply = view.config, view.status()
    run = {
        "task": config.task.kind,
        "metrics": list(config.metrics),
        "dataset": config.data.dataset,
        "model": config.network.model,
        "batch_size": config.run.batch_size,
        "profile": config.cluster.profile,
        "synthesis": config.cluster.synthesis,
        "unlock": config.decoupling.unlock,
        "gradient": config.decoupling.gradient if config.decoupling.row.synthesizes else None,
        "alignment": config.decoupling.alignment if config.decoupling.aligned else None,
    }
    found = problems(reply, config, _slave_command(view))
    return {
        **strict_json.to_plain(reply),
        "run": run,
        "samples_per_second": throughput(reply),
        "problems": [strict_json.to_plain(problem) for problem in found],
    }


def _slave_command(view: View) -> str:
    return slave_command(view.config, reachable_address(view.address(), None), secure=view.secure)


def targets(view: View, visit: Visit, here: str) -> list[dict[str, Any]]:
    """List the slaves and stores that show metrics to a visitor, for Prometheus' HTTP service discovery.

    Args:
        view: sources of the pages.
        visit: decides which addresses the visitor reaches.
        here: name of this machine.
    """
    reached = ((each, _reached(each, visit, here)) for each in view.shown())
    return [{"targets": [address], "labels": _labels(each)} for each, address in reached if address]


def _labels(process: Showing) -> dict[str, str]:
    scheme = {"__scheme__": "https"} if process.metrics.startswith(SECURE_PAGES) else {}
    return {"host": process.host, **scheme}


def _reached(process: Showing, visit: Visit, here: str) -> str | None:
    """Return the address at which a visitor reaches a process' metrics; None if the visitor cannot."""
    place = process.metrics.removeprefix(SECURE_PAGES)
    try:
        host, port = split_address(place)
    except ConfigError:  # no metrics, or a stranger's text
        return None
    if is_unspecified(host):  # of a process that reaches the master by loopback, here or through a tunnel
        return join_address(visit.reached if process.host == here else process.host, port)
    if is_loopback(host) and not (visit.local and process.host == here):
        return None
    return place


def _layers(history: History, measure: str) -> Page:
    return _json(history.by_layer(measure, time.time() - time.monotonic()))


class _Static:
    """Page from a file of the package."""

    def __init__(self, name: str, content_type: str) -> None:
        self._name = name
        self._type = content_type

    def __call__(self) -> Page:
        return Page(_read(self._name), self._type)


@cache
def _read(name: str) -> bytes:
    return (resources.files(__package__) / "static" / name).read_bytes()


def _json(value: Any) -> Page:
    return Page(strict_json.encode(value).encode(), "application/json")
