"""Chromium without a window, driven by its DevTools protocol over two pipes: JSON messages ended by zero bytes."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

PATIENCE = 120.0  # seconds; a busy machine may pause us for one minute
_AS_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {"Tab": 9, "Enter": 13, " ": 32}


def find_chromium():
    """The browser of the distribution, under any of its names; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One browser with a profile of its own in `folder`, and no way to any host."""

    def __init__(self, executable, folder):
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        commands, answers = (_moved_up(fd) for fd in (commands, answers))
        arguments = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run", "--disable-gpu",
            "--disable-dev-shm-usage", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
        ]  # fmt: skip
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", _AS_3_AND_4, str(commands), str(answers), executable, *arguments],
            pass_fds=(commands, answers), stdout=self._log, stderr=self._log,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer, self._last = b"", 0
        self.events = []

    def call(self, method, session=None, **params):
        """The result of a command; events that come before it are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        message |= {} if session is None else {"sessionId": session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def wait(self, method, session):
        """The next event of a kind."""
        while True:
            for index, event in enumerate(self.events):
                if event["method"] == method and event.get("sessionId") == session:
                    return self.events.pop(index)["params"]
            self._receive()

    def page(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        return Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    def close(self):
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for fd in (self._read, self._write):
            os.close(fd)
        self._log.close()

    def _receive(self):
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                self._log.seek(0)
                log = self._log.read().decode(errors="replace")[-2000:]
                raise AssertionError(f"the browser {'ended' if ready else 'does not answer'}: {log}")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message


class Page:
    """A tab."""

    def __init__(self, browser, session):
        self._browser, self._session, self._url = browser, session, ""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        return self._browser.call(method, self._session, **params)

    def open(self, path, *, width=1200, scripts=True):
        """Load a file in a window of that width; events before are forgotten."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._browser.events.clear()
        self._url = path.as_uri()
        self.call("Page.navigate", url=self._url)
        self._browser.wait("Page.loadEventFired", self._session)

    def value(self, expression):
        """What an expression gives in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def tags(self):
        """Names of all elements, asked of the browser and not of a script."""
        root = self.call("DOM.getDocument", depth=-1)["root"]
        return [node["nodeName"] for node in _below(root)]

    def text(self):
        """All text, likewise."""
        root = self.call("DOM.getDocument", depth=-1)["root"]
        return " ".join(node["nodeValue"] for node in _below(root) if node["nodeName"] == "#text")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            text = {"text": {"Enter": "\r", "Tab": ""}.get(key, key)} if kind == "keyDown" else {}
            code = KEYS.get(key, 0)
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def complaints(self):
        """Errors, messages and dialogs since the page was opened, and what it asked of the network."""
        self.value("0")  # what came before this is here now
        found = []
        for event in self._browser.events:
            method, params = event["method"], event["params"]
            if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append((method, params))
            elif method == "Page.javascriptDialogOpening":
                found.append((method, params["message"]))
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(
                (self._url, "data:")
            ):
                found.append((method, params["request"]["url"]))
        return found

    def pdf(self):
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])


def _below(node):
    yield node
    for child in node.get("children", ()):
        yield from _below(child)


def _moved_up(fd):
    """The same pipe under a number beyond those that the browser expects."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD, 10)
    os.close(fd)
    return high
