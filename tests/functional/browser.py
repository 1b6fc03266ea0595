"""Chromium without a window, and what happens in it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from tests.functional.launching import until

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NETWORK = ("http", "https", "ws", "wss", "ftp")
SEEN = {"performance": "ALL", "browser": "ALL"}


class Browser:
    """One tab."""

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome
        self._events: list[Any] = []
        self._complaints: list[str] = []

    def open(self, address: str, model: str = "") -> None:
        """Show the page of that server, with a model chosen."""
        self.chrome.get("about:blank")  # so that another model is another document, too
        self.chrome.get(f"http://{address}/{model and '#' + model}")

    def one(self, id: str) -> WebElement:
        return self.chrome.find_element(By.ID, id)

    def script(self, text: str, *arguments: object) -> Any:
        """What the body of a function returns in the page."""
        return self.chrome.execute_script(text, *arguments)

    # At one moment each: the page changes all the time.

    def text(self, id: str) -> str:
        """The text that is seen of an element; "" if there is none."""
        return str(self.script("return document.getElementById(arguments[0])?.innerText ?? ''", id))

    def value(self, id: str) -> str:
        """What is written in a field; "" if there is none."""
        return str(self.script("return document.getElementById(arguments[0])?.value ?? ''", id))

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
        return list(self.script(script, selector))

    def rows(self, id: str) -> list[list[str]]:
        """The texts of the cells of a table's body."""
        script = """return [...document.getElementById(arguments[0])?.rows ?? []].map(
            (row) => [...row.cells].map((each) => each.innerText))"""
        return list(self.script(script, id))

    def is_seen(self, id: str) -> bool:
        return bool(
            self.script("return document.getElementById(arguments[0]).checkVisibility()", id)
        )

    def choose(self, id: str, text: str) -> None:
        Select(self.one(id)).select_by_visible_text(text)

    def choices(self, id: str) -> list[str]:
        script = "return [...document.getElementById(arguments[0]).options].map(each => each.text)"
        return list(self.script(script, id))

    def write(self, text: str) -> None:
        """Write a request in place of the one that is there."""
        self.one("body").clear()
        self.one("body").send_keys(text)

    def send(self) -> str:
        """Send the request; what came of it, in a line."""
        self.script("document.getElementById('outcome').textContent = ''")
        self.one("send").click()
        until(lambda: "·" in self.text("outcome") or "after" in self.text("outcome"))
        return self.text("outcome")

    def show_as(self, width: int, height: int, scheme: str) -> None:
        """Take on a size, and a colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def requests(self) -> list[str]:
        """The addresses of everything that was asked for so far, by http and its kin."""
        for entry in self.chrome.get_log("performance"):  # type: ignore[no-untyped-call]
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                self._events.append(event["params"]["request"]["url"])
        return [url for url in self._events if urlsplit(url).scheme in NETWORK]

    def forget(self) -> None:
        """Begin anew with what was asked for, and with what the console has got."""
        self.requests()
        self._events.clear()
        self.complaints().clear()

    def complaints(self) -> list[str]:
        """What the console has got so far."""
        log = self.chrome.get_log("browser")  # type: ignore[no-untyped-call]
        self._complaints += [entry["message"] for entry in log]
        return self._complaints


@contextmanager
def browser(downloads: Path) -> Iterator[Browser]:
    """A new Chromium with a new profile."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("needs chromium and chromium-driver")
    with tempfile.TemporaryDirectory(dir=downloads, ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = str(programs[0])
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", SEEN)
        chrome = Chrome(options, ChromeService(programs[1]))
        try:
            yield Browser(chrome)
        finally:
            chrome.quit()
