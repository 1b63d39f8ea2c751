"""A real browser without a window, driven over its debugging pipe: what one sees, points at, clicks and types."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

COMMANDS = ("chromium", "chromium-browser", "google-chrome")

_KEYS = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
         "ArrowDown": 40, "Tab": 9}  # fmt: skip
_CONTROL = 2
_PATIENCE = 120  # seconds for all that is done with a browser


def installed() -> str | None:
    """The command that starts a browser; None without one."""
    return next((command for command in COMMANDS if shutil.which(command)), None)


@contextmanager
def opened(command: str, folder: Path) -> Iterator[Browser]:
    """A browser that keeps what it writes in an empty folder; it is closed afterwards."""
    to_browser, ours = os.pipe()
    theirs, from_browser = os.pipe()
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
        f"--user-data-dir={folder}",
    ]  # fmt: skip
    start = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser} 2>/dev/null', "bash", command]
    with subprocess.Popen([*start, *flags], pass_fds=(to_browser, from_browser)) as child:
        os.close(to_browser)
        os.close(from_browser)
        with os.fdopen(ours, "wb", buffering=0) as out, os.fdopen(theirs, "rb") as inward:
            patience = Timer(_PATIENCE, child.kill)  # then reading ends, and the test fails instead of waiting
            patience.start()
            browser = Browser(out, inward)
            try:
                browser.attach()
                yield browser
                browser.send("Browser.close", session=False)
            finally:
                patience.cancel()
                child.kill()


class Browser:
    """One page of a browser. Answers and events come as messages that end with a zero byte."""

    def __init__(self, out: Any, inward: Any) -> None:
        self._out, self._in = out, inward
        self.problems: list[str] = []  # errors of scripts, and what the page was not allowed to do
        self._number = 0
        self._session: str | None = None

    def attach(self) -> None:
        """Open the page that all other calls are about."""
        target = self.send("Target.createTarget", session=False, url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", session=False, targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for part in ("Page", "Runtime", "Log"):
            self.send(f"{part}.enable")
        allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self.send("Browser.grantPermissions", session=False, permissions=allowed)

    def send(self, method: str, *, session: bool = True, **arguments: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        if session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, *, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Show a file in a window of this size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url=page.resolve().as_uri())
        while self._message().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """The value of an expression on the page; of a promise, what it resolves to."""
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def point_at(self, selector: str) -> tuple[float, float]:
        """Move the mouse onto the first element of a selector; returns where that is."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{box}.scrollIntoView({{block: 'center'}})")
        x, y = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box}.getBoundingClientRect())")
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    def click(self, selector: str) -> None:
        """Click the first element of a selector."""
        x, y = self.point_at(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, *, control: bool = False) -> None:
        """Press a key."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key], "modifiers": _CONTROL * control}
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, **named)

    def type(self, text: str) -> None:
        """Type text into what has the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot")["data"])

    def _message(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._in.read(1)) not in (b"\0", b""):
            text += byte
        if not text:
            raise AssertionError("the browser is gone")
        message: dict[str, Any] = json.loads(text)
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(message["params"]))
        return message
