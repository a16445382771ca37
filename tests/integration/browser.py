"""Headless Chromium, driven by its own driver over the WebDriver protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

from tests.integration.processes import until

DRIVER = shutil.which("chromedriver")
# No sandbox: tests may run as root. The rest keeps the browser from calling home.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen([str(DRIVER), "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = next(
            line.rstrip(".\n").rpartition(" ")[2]
            for line in self._process.stdout
            if "started successfully on port" in line
        )
        self._base = f"http://127.0.0.1:{port}/session"
        options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={folder}"]}
        asked = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._base += "/" + self._call("", asked)["sessionId"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._call("", method="DELETE")
        finally:
            self._process.terminate()
            self._process.wait(20)
            if self._process.stdout is not None:
                self._process.stdout.close()

    def open(self, address: str, width: int, height: int) -> None:
        """Show a page in a window of that size."""
        self._call("/window/rect", {"width": width, "height": height})
        self._call("/url", {"url": address})

    def run(self, script: str) -> Any:
        """What a script returns."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def until(self, script: str, seconds: float = 60) -> Any:
        """What a script returns, once that is true."""
        return until(lambda: self.run(f"return {script}"), seconds)

    def log(self) -> list[str]:
        """What the page and the browser complained about."""
        entries = self._call("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
        """A picture of the window."""
        path.write_bytes(base64.b64decode(self._call("/screenshot", method="GET")))

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file, as a visitor does."""
        found = self._call("/element", {"using": "css selector", "value": selector})
        self._call(f"/element/{next(iter(found.values()))}/value", {"text": str(path)})

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, on the element that has the focus."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def dark(self, dark: bool) -> None:
        """As somebody sees it who prefers dark, or light."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setEmulatedMedia", {"features": features})

    def command(self, name: str, parameters: dict[str, Any]) -> None:
        """Give a command of the DevTools protocol."""
        self._call("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _call(self, path: str, body: Any = None, method: str = "POST") -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
