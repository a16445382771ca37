"""The live page in a real browser, beside a run: what it shows is what /status says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.integration.browser import DRIVER, Browser
from tests.integration.processes import Cli, HandMade, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        DRIVER is None or shutil.which("chromium") is None,
        reason="chromium and chromedriver are not installed (packages chromium, chromium-driver)",
    ),
]

# Where the pictures go that a person may look at; by default they go with the test's folder.
PICTURES = "LAYERWISE_PICTURES"

SHOWN = """(() => ({
  state: document.querySelector("#state").textContent,
  layers: [...document.querySelectorAll(".layer")].map((layer) => layer.dataset.layer),
  slaves: [...document.querySelectorAll(".slave")].map((s) => [s.dataset.state, s.dataset.incarnation ?? ""]),
  problems: document.querySelector("#problems").textContent,
  events: document.querySelector("#events").textContent,
  charts: document.querySelectorAll("#charts canvas").length,
  wide: document.documentElement.scrollWidth > window.innerWidth,
}))()"""


class Page:
    """The live page of one master, open in a browser."""

    def __init__(self, browser: Browser, cluster: HandMade, pictures: Path) -> None:
        self.browser = browser
        self.cluster = cluster
        self.address = f"http://{(cluster.cli.folder / 'state' / 'web').read_text()}"
        self._pictures = pictures

    def status(self) -> dict[str, Any]:
        with urlopen(f"{self.address}/status", timeout=10) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def shows(self, status: dict[str, Any]) -> bool:
        """Whether it shows just the slaves of a status."""
        seats = [
            [seat["state"], str(seat["incarnation"]) if seat["incarnation"] else ""]
            for seat in status["seats"]
        ]
        return bool(self.browser.run(f"return {SHOWN}")["slaves"] == seats)

    def picture(self, name: str) -> None:
        self.browser.screenshot(self._pictures / f"{name}.png")


def test_a_slave_that_is_killed_and_replaced_is_seen(cli: Cli, by_hand: HandMade, tmp_path: Path) -> None:
    pictures = Path(os.environ.get(PICTURES, tmp_path))
    by_hand.master("--set", "run.batches=1000000")
    slaves = [by_hand.slave() for _ in range(3)]
    with Browser(tmp_path / "profile") as browser:
        page = Page(browser, by_hand, pictures)
        until(lambda: page.status()["batches"] > 30)
        browser.open(page.address, 1280, 1500)
        browser.until(f"{SHOWN}.state.includes('training')")
        until(lambda: page.shows(page.status()), 20)
        assert browser.run(f"return {SHOWN}.layers") == ["1", "2", "3"]
        assert browser.run(f"return {SHOWN}.charts") == 4
        page.picture("training")

        victim = next(slave for slave in slaves if slave.pid == page.status()["seats"][1]["pid"])
        victim.kill()
        until(lambda: page.status()["seats"][1]["state"] == "vacant", 30)
        browser.until(f"{SHOWN}.problems.includes('layer 2: the slave has failed or left')")
        browser.until(f"{SHOWN}.events.includes('its slave failed')")
        page.picture("slave-lost")

        by_hand.slave()
        until(lambda: page.status()["seats"][1]["grants"] == 2)
        until(lambda: page.shows(page.status()), 20)
        browser.until(f"!{SHOWN}.problems.includes('layer 2')")
        page.picture("replaced")

        browser.dark(True)
        browser.open(page.address, 500, 2600)
        browser.until(f"{SHOWN}.state.includes('training')")
        assert not browser.run(f"return {SHOWN}.wide")
        page.picture("phone-dark")
        assert browser.log() == []

        by_hand.end()
        browser.until(f"{SHOWN}.state.includes('master away')", 30)
        page.picture("master-away")
