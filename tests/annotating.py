"""People who annotate: a served folder, a browser, and hands that draw in it."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from browser import find_browser

playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright")

Point = tuple[float, float]

OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SCREEN = {"width": 1280, "height": 800}
LINK = re.compile(r"(http://[^/]+/)\?token=\S+")
UNREACHED = "net::ERR_"
"""What a browser says of a server that is away."""


class Served:
    """A folder that `sightline annotate` serves: each of its links lets one person in."""

    def __init__(self, folder: Path, *options: str, port: int = 0, people: int = 8) -> None:
        command = [sys.executable, "-m", "sightline", "annotate", str(folder), "--no-open", *options]
        command += ["--port", str(port), "--people", str(people)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = filter(None, map(LINK.search, self.process.stdout))
        self.links = [link.group() for link in islice(found, people)]
        assert len(self.links) == people, "the server did not start"
        self.port = int(self.links[0].split(":")[2].partition("/")[0])

    def kill(self) -> None:
        """As a failing machine would."""
        self.process.kill()
        self.process.wait(30)


@contextmanager
def serving(folder: Path, *options: str, port: int = 0) -> Iterator[Served]:
    """Serve a folder for a while."""
    served = Served(folder, *options, port=port)
    try:
        yield served
    finally:
        served.kill()


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser; the test is skipped where there is none."""
    program = find_browser()
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=list(OPTIONS))
        try:
            yield started
        finally:
            started.close()


class Hand:
    """One person at the page: what they do, and what the page asks for and complains of meanwhile."""

    def __init__(self, context: Any, link: str) -> None:
        self.home = link.partition("?")[0]
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(link)
        self.page.wait_for_url(f"{self.home}#*")
        self.ready()

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def ready(self) -> None:
        """Wait until an image can be drawn on."""
        self.page.wait_for_selector("#stage:not(.loading)")

    def open(self, name: str) -> None:
        """Choose an image from the list."""
        self.page.locator("#images button", has=self.page.get_by_text(name, exact=True)).click()
        self.opened(name)

    def opened(self, name: str) -> None:
        """Wait until this image can be drawn on."""
        self.page.wait_for_function("name => document.getElementById('name').textContent === name", arg=name)
        self.ready()

    def saved(self) -> None:
        """Wait until the server has everything that was done until now."""
        self.page.evaluate("() => new Promise(requestAnimationFrame)")
        self.page.wait_for_selector("#saving[data-state=saved]")

    def at(self, point: Point) -> Point:
        """Where on the screen a point (x, y) of the image lies."""
        left, top, scale = self._lies()
        return left + scale * point[0], top + scale * point[1]

    def on(self, place: Point) -> Point:
        """Which point of the image lies at a place on the screen."""
        left, top, scale = self._lies()
        return (place[0] - left) / scale, (place[1] - top) / scale

    def _lies(self) -> Any:
        return self.page.evaluate(
            """async () => {
                await new Promise(requestAnimationFrame);
                const picture = document.getElementById("picture");
                const { left, top, width } = picture.getBoundingClientRect();
                return [left, top, width / picture.width];
            }"""
        )

    def drag(self, points: Sequence[Point], button: str = "left") -> None:
        """Press at the first point, move through the others, lift at the last."""
        mouse = self.page.mouse
        places = [self.at(point) for point in points]
        mouse.move(*places[0])
        mouse.down(button=button)
        for place in places[1:]:
            mouse.move(*place)
        mouse.up(button=button)

    def polygon(self, corners: Sequence[Point], pause: float = 0) -> None:
        """Click the corners, with seconds between, and close the outline."""
        self.press("p")
        for corner in corners:
            self.page.mouse.click(*self.at(corner))
            self.page.wait_for_timeout(1000 * pause)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, name: str) -> str:
        """What an element of the page says."""
        return str(self.page.locator(f"#{name}").inner_text())
