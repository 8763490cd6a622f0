"""The window's frame in a real browser: opening, two languages, light and dark, keyboard, errors, and nothing fetched."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from lora_core.ui.server.error_report import crash_panel
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from tests.e2e.conftest import Window, start_window

TABS = ("dataset", "train", "test", "export", "runs")
TITLES = {"en": "Dataset Train Test Export Runs", "pt-BR": "Imagens Treinar Testar Exportar Treinos"}
NAMELESS = """[...document.querySelectorAll("input:not([type=hidden]), textarea, select, button")].filter(e => !(
    e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.title || e.textContent.trim()
    || e.querySelector("img")?.alt
    || [...(e.labels || [])].some(l => l.textContent.trim()) || e.closest("[aria-hidden=true]")
)).map(e => e.outerHTML.slice(0, 160) + " in " + (e.closest("[id]") || {}).id)"""
# What a page of another program gets of ours, tried in every way a browser has.
TRY_ALL = """async (url) => {
    const got = [], post = (body) => ({method: "POST", body});
    for (const [path, how] of [["ping", {}], ["preferences", post("{}")], ["dataset", post("{}")],
        ["en/gradio_api/queue/join", post("{}")], ["en/gradio_api/upload", post(new FormData())]])
        for (const mode of ["cors", "no-cors"])
            try {
                const answer = await fetch(url + path, {...how, mode});
                got.push([path, mode, answer.type, answer.status]);
            } catch { got.push([path, mode, "failed", 0]); }
    return got;
}"""


def tab(page: Page, name: str) -> Any:
    return page.locator(f"#tab-{name}-button:visible")


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def hear(page: Page) -> None:
    """Wait until the page knows what the server is at now: the first answer may be one to an earlier question, and the
    second one has surely been read when a third comes.
    """
    for _ in range(3):
        with page.expect_response("**/ping"):
            pass


def test_every_tab_in_both_languages_light_and_dark(
    open_page: Callable[..., Page], shot: Callable[[Page, str], Path]
) -> None:
    """Console errors and foreign requests fail this in the fixture; here, that what is shown is whole."""
    for language, dark in (("en", False), ("pt-BR", True)):
        page = open_page(language, dark=dark, width=1280, height=720)
        assert page.title() == "Treino" and page.evaluate("document.documentElement.lang") == language
        assert [tab(page, name).inner_text() for name in TABS] == TITLES[language].split()
        for name in TABS:
            tab(page, name).click()
            page.wait_for_selector(f"#tab-{name}", state="visible")
            page.wait_for_timeout(600)
            shot(page, f"{name}-{language}-{'dark' if dark else 'light'}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the window"
        assert page.locator("footer a, .built-with, .show-api").count() == 0
        assert page.locator("#header h1").inner_text() == "Treino" and page.locator("#footer").inner_text().startswith(
            "Treino "
        )


def test_all_is_reached_by_keyboard_and_focus_is_seen(page_en: Page) -> None:
    seen = []
    for _ in range(6):
        page_en.keyboard.press("Tab")
        seen.append(page_en.evaluate("document.activeElement.id || document.activeElement.lang"))
        style = page_en.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert style == "3px", seen
    assert seen[:4] == ["appearance", "en", "pt-BR", "tab-dataset-button"], seen
    page_en.locator("#tab-dataset-button:visible").focus()
    page_en.keyboard.press("Tab")
    page_en.keyboard.press("Enter")
    page_en.wait_for_selector("#tab-train", state="visible")


def test_controls_have_names(page_en: Page) -> None:
    for name in TABS:
        tab(page_en, name).click()
        page_en.wait_for_selector(f"#tab-{name}", state="visible")
        page_en.wait_for_timeout(300)
    page_en.wait_for_function(f"{NAMELESS}.length === 0 || performance.now() > 60000")
    assert page_en.evaluate(NAMELESS) == []


def test_language_and_appearance_are_chosen_and_remembered(
    open_page: Callable[..., Page], window: Window, shot: Callable[[Page, str], Path]
) -> None:
    page = open_page("en", dark=True)
    dark = background(page)
    page.locator("#appearance").select_option("light")
    page.wait_for_function("document.body.classList.contains('dark') === false")
    light = background(page)
    assert light != dark
    page.locator("#header a[lang='pt-BR']").click()
    page.wait_for_url("**/pt-BR/")
    page.wait_for_selector("#tabs")
    expect(page.locator("#appearance")).to_have_value("light")
    assert background(page) == light
    shot(page, "frame-pt-light-on-dark-system")
    page.goto(window.url)  # where a new window begins
    page.wait_for_url("**/pt-BR/")
    page.wait_for_selector("#tabs")
    expect(page.locator("#appearance")).to_have_value("light")
    page.locator("#appearance").select_option("system")
    page.wait_for_function("document.body.classList.contains('dark')")
    page.locator("#header a[lang='en']").click()
    page.wait_for_url("**/en/")
    page.wait_for_selector("#tabs")
    assert background(page) == dark


def test_a_page_speaks_its_own_language_and_not_the_browsers(open_page: Callable[..., Page]) -> None:
    page = open_page("pt-BR", locale="en-US")
    page.locator("#tab-dataset-button").click()
    with page.expect_request("**/poll/pt-BR?**"):
        page.locator("#tab-train-button").click()
    expect(page.locator("html")).to_have_attribute("lang", "pt-BR")


def test_the_page_may_not_run_what_it_is_given(browser: Browser, window: Window) -> None:
    """The policy holds in the browser: no inline handler, no script of another address, no frame around it."""
    context = browser.new_context()  # one whose console may tell of what was refused
    page = context.new_page()
    page.goto(f"{window.url}en/")
    page.wait_for_selector("#say", state="attached")
    page.evaluate("""() => {
        window.refused = [];
        document.addEventListener("securitypolicyviolation", event => refused.push(event.effectiveDirective));
        document.getElementById("say").innerHTML = "<img src='data:,x' onerror='window.ran = true'>";
    }""")
    page.wait_for_function("window.refused.length > 0")
    assert page.evaluate("[window.ran === true, window.refused[0]]") == [False, "script-src-attr"]
    context.close()


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[str]:
    """The address of a page on another port of this computer."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_another_origin_gets_nothing(browser: Browser, window: Window, foreign: str) -> None:
    """A page of another program, in the same browser."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(foreign)
    tried = page.evaluate(TRY_ALL, window.url)
    assert all(kind in ("failed", "opaque") and status == 0 for _, _, kind, status in tried), tried
    form = f"<form method=post action='{window.url}preferences'><button>go</button></form>"
    page.set_content(f"<iframe src='{window.url}en/'></iframe>{form}")
    assert all("Treino" not in frame.content() for frame in page.frames[1:])
    with page.expect_response("**/preferences") as answered:
        page.locator("button").click()
    assert answered.value.status == 403
    context.close()


def test_an_error_is_a_panel_with_a_report_to_copy(
    page_en: Page, tmp_path: Path, shot: Callable[[Page, str], Path]
) -> None:
    crash = App(tmp_path, tmp_path).note_crash("tests", ValueError("a photo of Maria"))
    panel = {"html": crash_panel(crash, None, Texts("en"))}
    hear(page_en)  # of no crash first
    page_en.route("**/crash/**", lambda route: route.fulfill(json=panel))
    page_en.route("**/ping", lambda route: route.fulfill(json={**route.fetch().json(), "crash": 1000}))
    page_en.wait_for_selector(".crash")
    assert page_en.locator(".crash").get_attribute("role") == "alert"
    assert not page_en.locator(".crash pre.public").is_visible()
    page_en.get_by_text("Technical details").click()
    assert "ValueError" in page_en.locator(".crash pre.public").inner_text()
    shot(page_en, "frame-error")
    page_en.get_by_role("button", name="Copy report").click()
    page_en.get_by_role("button", name="Copied").wait_for()
    assert page_en.locator("#say").inner_text() == "Copied"
    copied = page_en.evaluate("navigator.clipboard.readText()")
    assert "Treino" in copied and "Maria" not in copied
    page_en.get_by_label("Include paths and prompts").check()
    page_en.locator("[data-crash=copy]").click()
    page_en.wait_for_function("navigator.clipboard.readText().then(text => text.includes('Maria'))")
    page_en.get_by_role("button", name="Close", exact=True).click()
    assert page_en.locator(".crash").count() == 0
    page_en.unroute_all(behavior="ignoreErrors")


def test_closing_asks_while_a_training_goes_on(page_en: Page) -> None:
    """The state is the server's; here it is played, and the tests of the Train tab play nothing."""
    asked: list[str] = []
    page_en.on("dialog", lambda dialog: asked.append(dialog.type))
    page_en.locator("#header h1").click()  # without a gesture a browser never asks
    page_en.reload()
    page_en.wait_for_selector("#tabs")
    assert asked == []
    page_en.route("**/ping", lambda route: route.fulfill(json={**route.fetch().json(), "training": "running"}))
    hear(page_en)
    page_en.locator("#header h1").click()
    page_en.reload()
    page_en.wait_for_selector("#tabs")
    assert asked == ["beforeunload"]
    page_en.unroute_all(behavior="ignoreErrors")


@pytest.fixture
def own_window(tmp_path: Path) -> Any:
    """A window for a test that ends it."""
    window = start_window(tmp_path)
    yield window
    window.stop()


def test_a_window_that_ended_is_told_and_found_again(
    own_window: Window, browser: Browser, tmp_path: Path, shot: Callable[[Page, str], Path]
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.route("**/ping", lambda route: route.abort())  # a quick end: the page never heard which start it belongs to
    page.goto(f"{own_window.url}en/")
    page.wait_for_selector("#tabs")
    port = own_window.url.rstrip("/").rpartition(":")[2]
    assert own_window.stop() == 0
    page.wait_for_function("document.getElementById('gone').textContent.startsWith('Treino has ended')")
    page.unroute_all()
    shot(page, "frame-ended")
    again = start_window(tmp_path, "--port", port)
    try:
        page.wait_for_function("document.getElementById('gone').textContent.startsWith('Treino was started anew')")
        page.locator("#gone button").click()
        page.wait_for_selector("#tabs")
        page.wait_for_function("document.getElementById('gone').textContent === ''")
    finally:
        context.close()
        again.stop()


def test_a_network_asks_for_the_password(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shot: Callable[[Page, str], Path]
) -> None:
    monkeypatch.setenv("TREINO_PASSWORD", "correct horse")
    window = start_window(tmp_path, "--listen", "0.0.0.0")
    try:
        context = browser.new_context(locale="pt-BR", viewport={"width": 1280, "height": 720})
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.goto(window.url)
        page.wait_for_url("**/login")
        page.locator("#password").fill("wrong horse")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        shot(page, "frame-login")
        page.locator("#password").fill("correct horse")
        page.keyboard.press("Enter")
        page.wait_for_url("**/pt-BR/")
        page.wait_for_selector("#tabs")
        assert context.request.get(f"{window.url}ping").ok
        assert browser.new_context().request.get(f"{window.url}ping").status == 401
        context.close()
    finally:
        window.stop()


def test_a_page_that_is_only_looked_at_draws_no_frames(window: Window, browser: Browser) -> None:
    """Gradio's first sign of loading asks for sixty frames a second for as long as the page lives."""
    page = browser.new_page()
    page.add_init_script(
        "{const ask = requestAnimationFrame; window.asked = 0;"
        " window.requestAnimationFrame = (f) => { asked += 1; return ask(f); }}"
    )
    page.goto(f"{window.url}en/")
    expect(page.locator("#dataset-folder")).to_be_visible()
    page.wait_for_function("!document.getElementById('core')?.textContent")
    seen = [0]
    for _ in range(20):  # what it loads comes to an end some time
        page.wait_for_timeout(1500)
        seen.append(page.evaluate("asked"))
        if seen[-1] - seen[-2] < 10:
            break
    else:
        raise AssertionError(f"frames asked for so far, every 1.5 s: {seen}")
    page.close()
