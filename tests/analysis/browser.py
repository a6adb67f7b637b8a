"""Opens pages in headless Chromium, by the DevTools protocol on the loopback.

with open_page(Path("report.html"), 390, profile) as tab:
    tab.click("th button")
    assert tab.value("document.title") == "quick"
"""

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)
PATIENCE_S = 60
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
OVERFLOWING = """[...document.querySelectorAll('body *')]
    .filter(one => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.scroll, svg'))
    .map(one => one.tagName + '.' + one.className)"""
REPORTED = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


@dataclass(frozen=True)
class Shown:
    """What happened when the browser showed a page."""

    errors: list[str]
    """Errors and warnings on the console, and exceptions."""
    requests: list[str]
    """Every address that was fetched."""
    overflow: int
    """By how many pixels the page is wider than its window."""
    overflowing: list[str]
    """Elements that reach beyond the window and are not in a box that scrolls."""
    screenshot: bytes
    """PNG of the whole page."""


class Tab:
    """A page in a browser. Methods wait until the browser has answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._number = loop, socket, 0
        self._events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), PATIENCE_S))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_str(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._events.append(message)

    def value(self, expression: str) -> Any:
        """What JavaScript evaluates to, as plain data; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Return once this expression is true."""
        waiting = f"""new Promise((done, failed) => {{
            const begun = Date.now();
            const ask = () => ({condition}) ? done() : Date.now() - begun > {500 * PATIENCE_S}
                ? failed(new Error('still false')) : setTimeout(ask, 30);
            ask();
        }})"""
        self.value(waiting)

    def goto(self, address: str) -> None:
        """Show another page, and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window this size, in pixels; a narrow one is a phone's, which is touched."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def emulate(self, scheme: str = "light", media: str = "") -> None:
        """Prefer `dark` or `light` colours; show the page as for `print`, or as it is ("")."""
        self.call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of the first such element, which is scrolled to the middle of the window."""
        box = self.value(f"""(() => {{
            const one = document.querySelector({json.dumps(selector)});
            one.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const box = one.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        return box[0], box[1]

    def move(self, x: float, y: float) -> None:
        """Move the mouse to this place in the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click on the middle of the first such element."""
        self.click_at(*self.place(selector))

    def click_at(self, x: float, y: float) -> None:
        """Click on this place in the window."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int) -> None:
        """Press a key: `Escape`, 27."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self) -> bytes:
        """PNG of the whole page."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def pdf(self) -> bytes:
        """The page on paper, of the size that its style sheet asks for."""
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(printed["data"])

    @property
    def errors(self) -> list[str]:
        """Errors and warnings on the console, and exceptions, so far."""
        self._collect()
        return [json.dumps(one["params"]) for one in self._events if one.get("method") in REPORTED]

    @property
    def requests(self) -> list[str]:
        """Every address that was fetched so far."""
        self._collect()
        sent = [one for one in self._events if one.get("method") == "Network.requestWillBeSent"]
        return [one["params"]["request"]["url"] for one in sent]

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        page, window = self.value(WIDTHS)
        return int(page - window)

    @property
    def overflowing(self) -> list[str]:
        """Elements that reach beyond the window and are not in a box that scrolls."""
        return list(self.value(OVERFLOWING))

    def _collect(self) -> None:
        with suppress(asyncio.TimeoutError):  # a late message
            while True:
                message = self._loop.run_until_complete(asyncio.wait_for(self._socket.receive_json(), 0.2))
                self._events.append(message)


@contextmanager
def open_page(page: Path | str, width: int, profile: Path, scheme: str = "light") -> Iterator[Tab]:
    """A tab that shows `page`, a file or an address, `width` pixels wide, in a browser with a new `profile`."""
    browser = subprocess.Popen(
        [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    loop = asyncio.new_event_loop()
    session: aiohttp.ClientSession | None = None

    def wait(answer: Awaitable[Any]) -> Any:
        return loop.run_until_complete(asyncio.wait_for(answer, PATIENCE_S))

    try:
        session, socket = wait(_connect(profile))
        tab = Tab(loop, socket)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.resize(width)
        tab.emulate(scheme)
        tab.goto(page if isinstance(page, str) else page.resolve().as_uri())
        yield tab
    finally:
        if session is not None:
            wait(session.close())
        loop.close()
        browser.terminate()
        browser.wait(10)


async def _connect(profile: Path) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    port = profile / "DevToolsActivePort"
    while not port.is_file() or not port.read_text().strip():
        await asyncio.sleep(0.05)
    base = f"http://127.0.0.1:{port.read_text().split()[0]}"
    session = aiohttp.ClientSession()
    async with session.put(f"{base}/json/new?about:blank") as response:
        address = (await response.json())["webSocketDebuggerUrl"]
    return session, await session.ws_connect(address, max_msg_size=0)


def show(page: Path, width: int, profile: Path) -> Shown:
    """Open `page` in a window of `width` pixels, with a new `profile`, and look at it."""
    with open_page(page, width, profile) as tab:
        overflow, overflowing, screenshot = tab.overflow, tab.overflowing, tab.screenshot()
        return Shown(tab.errors, tab.requests, overflow, overflowing, screenshot)
