"""A headless Chromium for tests of pages, driven by its own protocol: real pointers, keys and screenshots."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
# Read here: for the time of a test, `_isolated` takes LINEARSR_* settings away.
REQUIRED = os.environ.get("LINEARSR_REQUIRE_BROWSER") == "1"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--window-size=1280,900",
)


@dataclass(frozen=True, slots=True)
class Device:
    """A screen, in CSS pixels."""

    width: int
    height: int
    ratio: int
    mobile: bool


DEVICES = {"desktop": Device(1280, 900, 1, False), "phone": Device(375, 812, 2, True)}


def _missing() -> str:
    for path in (CHROMIUM, DRIVER):
        if not path.exists():
            return f"{path} is missing: install the system's packages chromium and chromium-driver"
    return "" if importlib.util.find_spec("selenium") else "selenium is not installed: pip install selenium"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for a module. Without one its tests are skipped, or fail where LINEARSR_REQUIRE_BROWSER is 1."""
    if reason := _missing():
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    folder = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    environment = {**os.environ, "HOME": str(folder)}
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER), env=environment))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """What tests do with the page that is open."""

    def __init__(self, driver) -> None:
        self.driver = driver
        self.device = DEVICES["desktop"]

    def command(self, name: str, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def js(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def open(self, path: Path, device: str = "desktop", fragment: str = "", **media: str) -> None:
        """Load a page from disk on `device`; `media` are features such as `prefers_color_scheme="dark"`."""
        screen = self.device = DEVICES[device]
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=screen.width,
            height=screen.height,
            deviceScaleFactor=screen.ratio,
            mobile=screen.mobile,
        )
        self.command("Emulation.setTouchEmulationEnabled", enabled=screen.mobile, maxTouchPoints=5)
        wanted = {"prefers-color-scheme": "light", "prefers-reduced-motion": "reduce"}
        wanted |= {name.replace("_", "-"): value for name, value in media.items()}
        self.command("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in wanted.items()])
        self.driver.get("about:blank")  # another fragment alone would not load the page again
        self.console(), self.requests()
        self.driver.get(path.as_uri() + fragment)

    def wait(self, condition: Callable[[], object], seconds: float = 5.0):
        """The first true value of `condition`."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, "the page did not get there in time"
            time.sleep(0.02)
        return value

    def settled(self) -> None:
        """Wait until what was changed has been drawn."""
        self.driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => setTimeout(done));")

    def console(self) -> list[dict]:
        return self.driver.get_log("browser")

    def requests(self) -> list[str]:
        """Addresses asked for since the last call, of pictures, scripts, sockets and pages alike."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return sent + [m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated"]

    def box(self, selector: str) -> dict[str, float]:
        """Rectangle of an element in the window, in CSS pixels."""
        return self.js(
            "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return {left: r.left, top: r.top, width: r.width, height: r.height}",
            selector,
        )

    def style(self, selector: str, name: str) -> str:
        return self.js("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def attribute(self, selector: str, name: str) -> str | None:
        return self.js("return document.querySelector(arguments[0]).getAttribute(arguments[1])", selector, name)

    def click(self, selector: str) -> None:
        """Bring an element into sight and press it in the middle, with a finger on a device that has none else."""
        self.js("document.querySelector(arguments[0]).scrollIntoView({block: 'center', inline: 'center'})", selector)
        self.settled()
        box = self.box(selector)
        self.drag([(box["left"] + box["width"] / 2, box["top"] + box["height"] / 2)])

    def drag(self, points: list[tuple[float, float]], modifiers: int = 0) -> None:
        """Press at the first point, move through the others, release at the last; by mouse or finger."""
        if self.device.mobile:
            self.touch("touchStart", points[:1])
            for point in points[1:]:
                self.touch("touchMove", [point])
            self.touch("touchEnd", [])
        else:
            self.mouse("mousePressed", *points[0], modifiers=modifiers)
            for point in points[1:]:
                self.mouse("mouseMoved", *point, modifiers=modifiers)
            self.mouse("mouseReleased", *points[-1], modifiers=modifiers)

    def mouse(self, kind: str, x: float, y: float, **arguments) -> None:
        down = {"button": "left", "buttons": 1, "clickCount": 1} if kind != "mouseWheel" else {}
        self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **down, **arguments)

    def touch(self, kind: str, points: list[tuple[float, float]]) -> None:
        fingers = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
        self.command("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def wheel(self, x: float, y: float, delta: float) -> None:
        self.mouse("mouseWheel", x, y, deltaX=0, deltaY=delta)

    def key(self, key: str, kind: str = "press", modifiers: int = 0) -> None:
        """Press, or only `keyDown` or `keyUp`, a key by its name in `KeyboardEvent.key`; 8 is Shift."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        for step in ("keyDown", "keyUp") if kind == "press" else (kind,):
            typed = {"text": text} if text and step == "keyDown" else {}
            self.command(
                "Input.dispatchKeyEvent",
                type=step,
                key=key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
                **typed,
            )

    def pixels(self, selector: str) -> np.ndarray:
        """What an element looks like: (H, W, 3) uint8 in CSS pixels of it; the screen's density is taken out."""
        self.settled()
        box = self.box(selector)
        scroll = self.js("return [scrollX, scrollY]")
        clip = {"x": box["left"] + scroll[0], "y": box["top"] + scroll[1], "width": box["width"]}
        clip |= {"height": box["height"], "scale": 1 / self.device.ratio}
        shot = self.command("Page.captureScreenshot", format="png", clip=clip)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))
