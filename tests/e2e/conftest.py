"""A real window in a real browser: `python gui.py` as a process, and whatever Chrome, Edge or Chromium there is."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

from lora_core.ui.server.instance import browsers
from tests import ROOT, heed_ctrl_c

SCREENSHOTS = Path(__file__).parent / "screenshots"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SLOW_MS = 240_000  # a machine that does much else meanwhile
expect.set_options(timeout=60_000)  # a busy computer is slow, not wrong
# Windows sends Ctrl-C to all programs of a console, the tests among them; Ctrl-Break goes to one group.
CTRL_C = signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGINT
OWN_GROUP = subprocess.CREATE_NEW_PROCESS_GROUP if sys.platform == "win32" else 0
GUI = (str(ROOT / "gui.py"), "--no-window", "--no-check", "--port", "0")
_NAMES = ("chromium", "google-chrome", "google-chrome-stable", "microsoft-edge", "chromium-browser")


@dataclass
class Window:
    """A running `python gui.py --no-window`. `home` is its memory, `runs` its folder of runs."""

    url: str
    home: Path
    runs: Path
    process: subprocess.Popen[str]

    def stop(self) -> int:
        """Ctrl-C, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(CTRL_C)
        code = self.process.wait(60)
        if self.process.stdout:
            self.process.stdout.close()
        return code


def start_window(folder: Path, *arguments: str, program: Sequence[str] = GUI, **variables: str) -> Window:
    """Start the window with everything it remembers, caches and writes below `folder`."""
    heed_ctrl_c()  # that is how it is stopped
    home = folder / "config"
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(home),
        "APPDATA": str(home),
        "HOME": str(folder),
        "USERPROFILE": str(folder),
        "TREINO_CACHE": str(folder / "cache"),
        "TREINO_RUNS": str(folder / "runs"),
        "PYTHONUTF8": "1",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    with (folder / "window.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            creationflags=OWN_GROUP,
        )
    assert process.stdout
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + (folder / "window.log").read_text(encoding="utf-8")
    return Window(found[0], home / "treino", folder / "runs", process)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    """One window for the tests of a file; each leaves it as usable as it found it."""
    window = start_window(tmp_path_factory.mktemp("window"))
    yield window
    window.stop()


def program() -> str:
    """The first browser of this computer that can be driven, "" without one."""
    found = [path for name in _NAMES if (path := shutil.which(name))] or list(browsers())
    return found[0] if found else ""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser of this computer; without one these tests are skipped, in CI they fail."""
    found = program()
    if not found:
        sentence = "There is no Chrome, Edge or Chromium on this computer, so the window is not tested in a browser."
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=list(FLAGS))


@pytest.fixture
def open_page(browser: Browser, window: Window) -> Iterator[Callable[..., Page]]:
    """Opens pages; an error in a console, or a request to anywhere but this computer, fails the test at its end."""
    contexts, wrong = [], []

    def open_one(language: str = "en", dark: bool = False, width: int = 1280, height: int = 800, **more: Any) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
            **{"locale": language, **more},
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda told: wrong.append(f"{told.text} {told.location}") if _is_error(told) else None)
        page.on("pageerror", lambda error: wrong.append(f"page: {error}"))
        page.on("request", lambda asked: None if _is_here(asked.url) else wrong.append(f"request: {asked.url}"))
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{window.url}{language}/")
        page.wait_for_selector("#tabs")
        return page

    yield open_one
    for context in contexts:
        context.close()
    log = window.home.parents[1] / "window.log"
    assert not wrong, "\n".join([*wrong, "The window said:", log.read_text(encoding="utf-8", errors="replace")[-8000:]])


def settled(shown: Locator) -> Locator:
    """A control that a fold or a tab has just shown: Gradio fills it again a frame later, over what was typed by then."""
    expect(shown).to_be_visible()
    shown.page.evaluate(
        "() => new Promise(done => { let n = 5; const f = () => --n ? requestAnimationFrame(f) : done(); f(); })"
    )
    return shown


def _is_error(told: ConsoleMessage) -> bool:
    """Whether the console tells of an error.

    None are: a picture that was deleted or damaged while it was shown, and what Gradio says in a page that is left while
    it asks for something.
    """
    is_gone = "404" in told.text and "/files/" in str(told.location.get("url", ""))
    is_left = told.text.startswith("AbortError: signal is aborted") or told.text.endswith("Connection errored out. ")
    return told.type == "error" and not is_gone and not is_left


def _is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))


def points(page: Page) -> int:
    """How many points the smoothed line has."""
    line = page.locator("#train-plot .plot-smoothed[data-points]")
    return int(line.get_attribute("data-points") or 0) if line.count() else 0


def wait_points(page: Page, least: int) -> int:
    """Wait until the smoothed line has so many points; how many it has then."""
    page.wait_for_function(
        "least => Number(document.querySelector('#train-plot .plot-smoothed[data-points]')?.dataset.points) >= least",
        arg=least, timeout=SLOW_MS,
    )  # fmt: skip
    return points(page)


@pytest.fixture
def page_en(open_page: Callable[..., Page]) -> Page:
    return open_page("en")


@pytest.fixture
def page_pt(open_page: Callable[..., Page]) -> Page:
    return open_page("pt-BR")


@pytest.fixture
def shot() -> Callable[[Page, str], Path]:
    """Takes a screenshot, kept beside the tests until the next run."""

    def take(page: Page, name: str) -> Path:
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        page.screenshot(path=path)
        return path

    return take
