"""A browser without a window, driven over a pipe: what a page asks for, complains of, and looks like."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest

COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


class Browser:
    """One tab."""

    def __init__(self, commands: BinaryIO, answers: BinaryIO) -> None:
        self.commands, self.answers = commands, answers
        self.count, self.session, self.events = 0, {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what happens meanwhile is kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params, **self.session}
        self.commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self.answers.read(1)) not in (b"\0", b""):
            text += byte
        return json.loads(text)

    def open(self, page: Path) -> float:
        """Load a page from disk; milliseconds from the start until everything in it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self.said("Page.loadEventFired"):
            self.events.append(self._next())
        return self.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart")

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def said(self, *methods: str) -> list[dict[str, Any]]:
        """The events of these kinds since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") in methods]

    @property
    def requested(self) -> list[str]:
        return [event["request"]["url"] for event in self.said("Network.requestWillBeSent")]

    def look(self, width: int, dark: bool = False) -> None:
        """As on a screen of this width."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def photograph(self, file: Path, top: float = 0, height: float = 900) -> None:
        width = self.evaluate("document.documentElement.clientWidth")
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


def find_browser() -> str:
    """The program; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    return program or pytest.skip("there is no Chromium or Chrome")


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile; the test is skipped where there is none."""
    program = find_browser()
    (theirs, commands), (answers, ours) = os.pipe(), os.pipe()
    options = f"--headless=new --no-sandbox --disable-gpu --no-first-run --user-data-dir={profile}"
    start = f'exec "{program}" {options} --remote-debugging-pipe 3<&{theirs} 4>&{ours} 2>/dev/null'
    process = subprocess.Popen(["bash", "-c", start], pass_fds=(theirs, ours))
    os.close(theirs), os.close(ours)
    with os.fdopen(commands, "wb", 0) as send, os.fdopen(answers, "rb") as receive:
        try:
            yield Browser(send, receive)
        finally:
            with suppress(OSError):
                send.write(b'{"id": 0, "method": "Browser.close"}\0')
            process.wait(30)
