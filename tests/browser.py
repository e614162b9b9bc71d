"""A headless Chromium that tests look at pages with, click and type in, over its DevTools pipe."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest


def binary():
    """The path of Chromium, or a skip."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


@contextmanager
def opened(page, profile, size=(1300, 900), dark=False):
    """The file ``page`` in a browser of its own; ``profile`` is a folder for it."""
    ours, theirs = [[fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in os.pipe()] for _ in range(2)]
    command = [binary(), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
               f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]

    def wire():
        os.dup2(theirs[0], 3)  # where Chromium reads
        os.dup2(ours[1], 4)

    process = subprocess.Popen(command, preexec_fn=wire, pass_fds=(3, 4), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    os.close(theirs[0])
    os.close(ours[1])
    try:
        browser = Browser(theirs[1], ours[0])
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.ask(f"{domain}.enable")
        browser.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1,
                    mobile=False)
        browser.ask("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        browser.ask("Page.navigate", url=page.as_uri())
        browser.wait("document.readyState === 'complete'")
        yield browser
    finally:
        process.kill()
        process.wait()
        os.close(theirs[1])
        os.close(ours[0])


class Browser:
    """``complaints`` are errors and exceptions of the page, ``requests`` the addresses that it asked for."""

    def __init__(self, to, back):
        self._to, self._back, self._rest, self._number = to, back, b"", itertools.count(1)
        self.session, self.complaints, self.requests = None, [], []

    def ask(self, method, **parameters):
        number = next(self._number)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._hear(answer)

    def see(self, expression):
        """The value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression, seconds=30):
        end = time.monotonic() + seconds
        while not self.see(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.03)

    def click(self, selector):
        x, y = self.place(selector)
        self.drag((x, y), (x, y))

    def drag(self, start, end):
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def place(self, selector, across=0.5):
        """A point in the middle of the first element of that selector, scrolled into view."""
        name = json.dumps(selector)
        box = self.see(f"(() => {{ const e = document.querySelector({name}); e.scrollIntoView({{block: 'center'}});"
                       "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()")
        return box[0] + box[2] * across, box[1] + box[3] / 2

    def write(self, selector, text):
        """Replace what a field holds, by the keyboard."""
        self.click(selector)
        self.see(f"document.querySelector({json.dumps(selector)}).select()")
        self.press("Backspace", 8)
        if text:
            self.ask("Input.insertText", text=text)

    def press(self, key, code):
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def _hear(self, event):
        told = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(told["exceptionDetails"])
        if event.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.complaints.append(told["entry"]["text"])
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def _next(self):
        while b"\0" not in self._rest:
            assert select.select([self._back], [], [], 60)[0], "the browser does not answer"
            found = os.read(self._back, 1 << 20)
            assert found, "the browser has gone"
            self._rest += found
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
