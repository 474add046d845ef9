"""Drives Chromium through the DevTools protocol: JSON messages, each ended by a zero byte, on two pipes.

with Browser(tmp_path) as browser:
    page = browser.open(url)
    page.type("#text", "def f")
    assert page.evaluate("document.title") == "..."
"""

import fcntl
import json
import os
import select
import shutil
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 20  # longest wait for an answer or a condition

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage --remote-debugging-pipe"
)
_CODES = {"Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowRight": 39, "z": 90}
_MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


class Browser:
    """A browser without a window. Its profile is a new folder."""

    def __init__(self, folder: Path):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The browser reads from 3 and writes to 4. Copies with higher numbers cannot be overwritten by these.
        copies = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]
        actions: list[tuple] = [(os.POSIX_SPAWN_DUP2, copies[0], 3), (os.POSIX_SPAWN_DUP2, copies[1], 4)]
        actions += [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
        arguments = [CHROMIUM, *_FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "about:blank"]
        environment = {**os.environ, "HOME": str(folder)}
        self._process = os.posix_spawn(CHROMIUM, arguments, environment, file_actions=actions)
        for end in (theirs_in, theirs_out, *copies):
            os.close(end)
        self._input, self._output = ours_in, ours_out
        self._rest, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.call("Browser.close")
        deadline = time.monotonic() + 5
        while not os.waitpid(self._process, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(self._process, 9)
            time.sleep(0.01)
        os.close(self._input)
        os.close(self._output)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a method; events that arrive before it are kept in `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._output, data) :]
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._read(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._input], [], [], max(0, deadline - time.monotonic()))[0], "no answer"
            data = os.read(self._input, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str, width: int = 1240, height: int = 900, dark: bool = False) -> "Page":
        """A page in a profile of its own. Below a width of 500 it is that of a phone."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        phone = width < 500
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        page.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=url)
        page.wait("document.URL !== 'about:blank' && document.readyState === 'complete'")
        return page


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str):
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def events(self, method: str) -> list[dict[str, Any]]:
        """The parameters of the events of one kind so far."""
        events = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [event["params"] for event in events if event["method"] == method]

    @property
    def problems(self) -> list[str]:
        """Exceptions and errors in the console, such as breaches of the policy."""
        entries = [entry["entry"] for entry in self.events("Log.entryAdded")]
        thrown = [str(event["exceptionDetails"]) for event in self.events("Runtime.exceptionThrown")]
        called = [str(event) for event in self.events("Runtime.consoleAPICalled")]
        return thrown + called + [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]

    @property
    def requested(self) -> list[str]:
        """The URLs of all requests."""
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Waits until an expression is true; returns its value."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.evaluate(condition)):
            assert time.monotonic() < deadline, f"not true after {SECONDS} s: {condition}"
            time.sleep(0.01)
        return value

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        return self.evaluate(f"document.querySelector({selector!r}).innerText")

    def click(self, selector: str) -> None:
        box = self.evaluate(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        self.click_at(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def click_at(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Types into the element that has the focus."""
        for character in text:
            if character == "\n":
                self.press("Enter")
            else:
                self.call("Input.dispatchKeyEvent", type="keyDown", key=character, text=character)
                self.call("Input.dispatchKeyEvent", type="keyUp", key=character)

    def press(self, key: str, *modifiers: str, command: str | None = None) -> None:
        """Presses a key. `command` is the editing command that a browser with a window has for it."""
        settings: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": _CODES[key]}
        settings["modifiers"] = sum(_MODIFIERS[name] for name in modifiers)
        commands = {"commands": [command]} if command else {}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **settings, **commands, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **settings)
