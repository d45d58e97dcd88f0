"""A real browser, driven over a pipe by Chromium's DevTools protocol: no package is needed for it."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--no-proxy-server",
)  # fmt: skip
KEYS = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
SHIFT = 8
PATIENCE_SECONDS = 300.0


class Browser:
    """One Chromium with one tab at a time.

    complaints  errors of the page's console, and what its policy has blocked, since the tab was opened.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest = to, back, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.complaints: list[str] = []

    def open(self, url: str, width: int = 1200, height: int = 900, dark: bool = False, still: bool = False) -> None:
        """Go to a page in a fresh tab, and wait until it is ready."""
        if self._session is not None:
            self.call("Page.close")
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.complaints = []
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, motion])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && 'ready' in document.documentElement.dataset")

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it gives."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression holds, or a promise does."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not self.evaluate(f"(async () => Boolean(await ({condition})))()"):
            assert time.monotonic() < end, f"{condition} never held: {self.evaluate('document.body.innerText')}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        """A key with its effect, as from a keyboard."""
        names = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": modifiers}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **names, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **names)

    def click(self, selector: str) -> None:
        """In the middle of an element, as with a mouse."""
        element = f"document.querySelector({json.dumps(selector)})"
        box = self.evaluate(
            f"(({element}.scrollIntoView({{block: 'nearest'}}), {element}.getBoundingClientRect().toJSON()))"
        )
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **at)

    def picture(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def call(self, method: str, **params: Any) -> Any:
        """A command of the protocol, and what it answers."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == number:
                assert "error" not in told, (method, told)
                return told["result"]
            self._hear(told)

    def _hear(self, told: dict[str, Any]) -> None:
        kind, said = told.get("method"), told.get("params", {})
        if kind == "Runtime.exceptionThrown" or (kind == "Runtime.consoleAPICalled" and said["type"] == "error"):
            self.complaints.append(json.dumps(said))
        elif kind == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.complaints.append(json.dumps(said["entry"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], PATIENCE_SECONDS)
            assert ready, "the browser says nothing"
            part = os.read(self._back, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A running browser. It reads commands from its descriptor 3 and answers on 4."""
    assert CHROMIUM is not None
    (its_in, to), (back, its_out) = os.pipe(), os.pipe()
    wired = f'exec 3<&{its_in} 4>&{its_out}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", wired, "bash", CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(its_in, its_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(its_in)
    os.close(its_out)
    try:
        yield Browser(to, back)
    finally:
        os.close(to)
        os.close(back)
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
