"""The live page in a real browser, of 1 to 64 layers, in a wide and a narrow window, light and dark."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.browser import DRIVER, Browser
from tests.integration.test_live_page import PICTURES
from tests.master.web.staged import staged

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        DRIVER is None or shutil.which("chromium") is None,
        reason="chromium and chromedriver are not installed (packages chromium, chromium-driver)",
    ),
]

SIZES = (1, 3, 16, 64)
WIDE, NARROW = 1280, 360
LEFT, DOWN = "\ue012", "\ue015"
WATCH = """
window.kept = [...document.querySelectorAll(".layer, #problems li, #events li")];
window.spoken = 0;
const watched = {childList: true, characterData: true, subtree: true};
new MutationObserver(() => { window.spoken += 1; }).observe(document.querySelector("#problems"), watched);
window.answers = 0;
const ask = window.fetch;
window.fetch = (...all) => { window.answers += 1; return ask(...all); };
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@contextmanager
def run_in(browser: Browser, layers: int, replicas: int = 1) -> Iterator[str]:
    """Serve a run's pages until the browser has left them; nothing may have been missing."""
    with staged(layers, replicas=replicas) as address:
        yield address
        log = browser.log()
        browser.open("about:blank", WIDE, 900)
    browser.log()
    assert log == []


def show(browser: Browser, address: str, width: int) -> None:
    browser.open(address, width, 900)
    # The window has a least width of its own.
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.command("Emulation.setDeviceMetricsOverride", metrics)
    browser.until("document.querySelector('#state').textContent.includes('training')")
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


def of(browser: Browser, selector: str, what: str) -> Any:
    """Return a property of the first element."""
    return browser.run(f"return document.querySelector('{selector}').{what}")


@pytest.mark.parametrize("layers", SIZES)
def test_every_layer_is_shown_and_nothing_is_wider_than_the_window(
    browser: Browser, layers: int, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get(PICTURES, tmp_path))
    layer_names = "return [...document.querySelectorAll('.layer')].map((each) => each.dataset.layer)"
    with run_in(browser, layers) as address:
        for width in (WIDE, NARROW):
            for dark in (False, True):
                browser.dark(dark)
                show(browser, address, width)
                assert browser.run(layer_names) == [str(layer) for layer in range(1, layers + 1)]
                assert of(browser, "html", "scrollWidth") <= width
                browser.until("document.querySelector('#command-train').textContent.startsWith('layerwise')")
                browser.screenshot(pictures / f"{layers}-{width}-{'dark' if dark else 'light'}.png")
        # The bar grows to its length.
        length = round(0.6 * (NARROW - 26))
        browser.until(f"Math.abs(document.querySelector('#bar').clientWidth - {length}) < 5")
        assert ("layer 2" in of(browser, "#problems", "textContent")) == (layers > 1)


def test_many_replicas_have_one_row_and_those_without_a_slave_their_own(
    browser: Browser, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get(PICTURES, tmp_path))

    def rows(selector: str) -> list[list[str]]:
        script = f"return [...document.querySelectorAll('{selector}')].map((row) => row.innerText)"
        return [text.split("\t") for text in browser.run(script)]

    with run_in(browser, 30, replicas=8) as address:
        show(browser, address, NARROW)
        assert of(browser, "html", "scrollWidth") <= NARROW
        show(browser, address, WIDE)
        browser.screenshot(pictures / "replicas.png")
        slaves = [row[:2] for row in rows(".slave")]
        assert len(slaves) == 31
        assert slaves[:3] == [
            ["1, 8 replicas", "● 8 training"],
            ["2, 8 replicas", "○ 1 no slave, 7 training"],
            ["2, replica 0", "○ no slave"],
        ]
        states = [row[1] for row in rows("#stores tbody tr")]
        assert states == ["● serving", "✕ late: silent for 33 s", "○ awaited"]


@pytest.mark.parametrize(("layers", "chart"), [(3, "#layers-lines .chart"), (16, "#map")])
def test_a_measure_of_each_layer_is_drawn_on_demand_and_read_by_keys(
    browser: Browser, layers: int, chart: str
) -> None:
    with run_in(browser, layers) as address:
        show(browser, address, WIDE)
        browser.until(f"document.querySelector('{chart}')?.checkVisibility()")
        browser.run(f"document.querySelector('{chart}').focus()")
        legend = "#map-read" if chart == "#map" else "#layers-lines .u-legend"
        newest = of(browser, legend, "textContent")
        browser.press(*([DOWN] * 2 if chart == "#map" else [LEFT] * 2))
        browser.until(f"document.querySelector('{legend}').textContent !== {json.dumps(newest)}")
        assert "the arrow keys read values" in of(browser, chart, "getAttribute('aria-label')")


def test_a_reading_by_keys_is_spoken_and_stays_while_numbers_come_and_the_window_changes(
    browser: Browser,
) -> None:
    legend = "#charts .chart .u-legend"
    with run_in(browser, 3) as address:
        show(browser, address, WIDE)
        browser.until("document.querySelector('#charts .chart .u-legend').textContent.includes('5.22')")
        assert of(browser, legend, "getAttribute('aria-live')") == "off"
        browser.run("document.querySelector('#charts .chart').focus()")
        browser.press(*[LEFT] * 60)
        reading = of(browser, legend, "textContent")
        assert "5.22" not in reading
        browser.run(WATCH)
        browser.until("window.answers >= 4")
        metrics = {"width": WIDE - 100, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.command("Emulation.setDeviceMetricsOverride", metrics)
        browser.until("window.answers >= 8")
        assert of(browser, legend, "textContent") == reading
        assert of(browser, legend, "getAttribute('aria-live')") == "polite"


def test_an_earlier_run_is_compared_at_the_same_batch(browser: Browser, tmp_path: Path) -> None:
    earlier = [
        {"kind": "evaluation", "batches": batch, "test_loss": 1.0, "metrics": {"error_percent": 8.25}}
        for batch in range(0, 4001, 100)
    ]
    file, other = tmp_path / "metrics.jsonl", tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in earlier) + '{"kind": "evalu')
    other.write_text("no metrics")
    with run_in(browser, 3) as address:
        show(browser, address, WIDE)
        browser.choose_file("#earlier-file", file)
        told = browser.until("document.querySelector('#earlier-result').textContent")
        assert told == "Test error at batch 2300: 5.22 %; the earlier run had 8.25 % at batch 2300."
        browser.choose_file("#earlier-file", other)
        browser.until("document.querySelector('#earlier-result').textContent.includes('no evaluation')")


def test_a_reader_keeps_its_place_while_numbers_change(browser: Browser) -> None:
    with run_in(browser, 3) as address:
        show(browser, address, WIDE)
        browser.until("document.querySelector('#events li')")
        browser.run(WATCH)
        browser.until("window.answers >= 4")
        assert browser.run("return window.kept.length > 3 && window.kept.every((each) => each.isConnected)")
        # A live region that is filled anew would be read out every second.
        assert browser.run("return window.spoken") == 0
