"""Chromium without a window, driven by the W3C WebDriver protocol, which is plain HTTP."""

import base64
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",  # WebGL on the CPU
)  # fmt: skip
PATIENCE_S = 120
"""How long a page may take to show what is waited for, on a machine that does other things too."""

Found = TypeVar("Found")


@dataclass
class Browser:
    """A page in the browser.

    Attributes:
        url: of the driver's session.
        folder: for its profile and what is told of a failure.
    """

    url: str
    folder: Path

    def open(self, url: str) -> None:
        self._post("url", url=url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page: ``arguments`` there, and what it returns here."""
        return self._post("execute/sync", script=script, args=list(arguments))

    def wait_for(self, what: str, script: str, *arguments: Any) -> Any:
        """Run JavaScript again and again until it gives something that is true."""
        return self.wait_until(what, lambda: self.run(script, *arguments))

    def wait_until(self, what: str, look: Callable[[], Found]) -> Found:
        """What `look` gives as soon as it is true; the test fails with a picture and the console's messages."""
        end = time.monotonic() + PATIENCE_S
        while not (found := look()):
            if time.monotonic() > end:
                picture = self.folder / "failed.png"
                picture.write_bytes(self.screenshot())
                pytest.fail(f"{what} was not seen, see {picture}\n" + "\n".join(self.console()[-20:]))
            time.sleep(0.3)
        return found

    def click(self, what: str, script: str, *arguments: Any) -> None:
        """Click an element with the mouse, once the script gives it."""
        element = self.wait_for(what, script, *arguments)
        self._post(f"element/{next(iter(element.values()))}/click")

    def double_click(self, x: float, y: float) -> None:
        """Click twice at a place, in pixels from the upper left corner."""
        press = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y)}, *press, *press]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._post("actions", actions=[mouse])

    def screenshot(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(requests.get(f"{self.url}/screenshot", timeout=PATIENCE_S).json()["value"])

    def console(self) -> list[str]:
        """What the page said since it was asked last."""
        return [entry["message"] for entry in self._post("se/log", type="browser")]

    def loaded(self) -> dict[str, int | None]:
        """Addresses that the page asked for since this was called last, and the status of each answer, if any."""
        addresses: dict[str, str] = {}
        answers: dict[str, int] = {}
        for entry in self._post("se/log", type="performance"):
            event = json.loads(entry["message"])["message"]
            kind, said = event["method"], event["params"]
            if kind == "Network.requestWillBeSent":
                addresses[said["requestId"]] = said["request"]["url"]
            elif kind == "Network.responseReceived":
                answers[said["requestId"]] = said["response"]["status"]
            elif kind == "Network.loadingFailed" and said.get("blockedReason"):  # never left the browser
                addresses.pop(said["requestId"], None)
        return {url: answers.get(key) for key, url in addresses.items() if url.startswith("http")}

    def devtools(self, command: str, **parameters: Any) -> None:
        """A command of the DevTools protocol."""
        self._post("goog/cdp/execute", cmd=command, params=parameters)

    def _post(self, command: str, **content: Any) -> Any:
        answer = requests.post(f"{self.url}/{command}", json=content, timeout=PATIENCE_S).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            pytest.fail(f"{command}: {answer['error']}: {answer['message']}")
        return answer


@contextmanager
def chromium(servers: Any, folder: Path, size: tuple[int, int]) -> Iterator[Browser]:
    """A browser with a new, empty profile and a page of a size in pixels.

    Args:
        servers: the module that starts programs.
        folder: for profile and log.
        size: width and height.
    """
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or program is None:
        pytest.skip("needs a browser (apt-get install chromium chromium-driver)")
    port = servers.free_port()
    root = f"http://127.0.0.1:{port}"
    flags = [*FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder / 'profile'}"]
    wanted = {
        "browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        "goog:chromeOptions": {"binary": program, "args": flags},
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    line = [driver, f"--port={port}"]
    with servers.running(line, folder, root, f"{root}/status", env=environment, cwd=folder):
        asked = {"capabilities": {"alwaysMatch": wanted}}
        session = requests.post(f"{root}/session", json=asked, timeout=PATIENCE_S).json()["value"]
        assert "sessionId" in session, session
        browser = Browser(f"{root}/session/{session['sessionId']}", folder)
        width, height = size
        browser.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        try:
            yield browser
        finally:
            requests.delete(browser.url, timeout=PATIENCE_S)
