"""Opens a page in headless Chromium, by the DevTools protocol on the loopback."""

import asyncio
import base64
import json
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
OVERFLOWING = """[...document.querySelectorAll('body *')]
    .filter(one => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.scroll, svg'))
    .map(one => one.tagName + '.' + one.className)"""


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


def show(page: Path, width: int, profile: Path) -> Shown:
    """Open `page` in a window of `width` pixels, with a new `profile`."""
    browser = subprocess.Popen(
        [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        return asyncio.run(asyncio.wait_for(_show(page, width, profile), timeout=60))
    finally:
        browser.terminate()
        browser.wait(10)


async def _show(page: Path, width: int, profile: Path) -> Shown:
    port = profile / "DevToolsActivePort"
    while not port.is_file() or not port.read_text().strip():
        await asyncio.sleep(0.05)
    base = f"http://127.0.0.1:{port.read_text().split()[0]}"
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{base}/json/new?about:blank") as response:
            address = (await response.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(address, max_msg_size=0) as socket:
            return await _ask(socket, page, width)


async def _ask(socket: aiohttp.ClientWebSocketResponse, page: Path, width: int) -> Shown:
    events: list[dict[str, Any]] = []
    number = 0

    async def call(method: str, **params: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        await socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = await socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            events.append(message)

    async def value(expression: str) -> Any:
        found = await call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"]["value"]

    for domain in ("Page", "Runtime", "Log", "Network"):
        await call(f"{domain}.enable")
    await call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    await call("Page.navigate", url=page.resolve().as_uri())
    while await value("document.readyState") != "complete":
        await asyncio.sleep(0.05)
    page_width, window = await value(WIDTHS)
    overflowing = await value(OVERFLOWING)
    shot = await call("Page.captureScreenshot", captureBeyondViewport=True)
    with suppress(asyncio.TimeoutError):  # a late message
        events.append(await asyncio.wait_for(socket.receive_json(), 0.2))
    reported = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    errors = [json.dumps(one["params"]) for one in events if one.get("method") in reported]
    requests = [one["params"]["request"]["url"] for one in events if one.get("method") == "Network.requestWillBeSent"]
    return Shown(errors, requests, page_width - window, overflowing, base64.b64decode(shot["data"]))
