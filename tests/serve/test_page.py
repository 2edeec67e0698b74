"""The chat page in headless Chromium: an extra test, for where playwright and a Chromium are."""

import os
import shutil

import pytest

pytest.importorskip("starlette", reason="needs starlette: pip install 'jaxlm[serve]'")
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")
pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

from playwright import sync_api as playwright

from jaxlm.serve import running
from tests.serve import servers
from tests.serve.test_app import listening

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_it_sends_streams_stops_regenerates():
    """Screenshots go to the folder that JAXLM_SHOTS names, if it does."""
    with running(server := servers.server(), 0), listening(server) as http, playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 780}, color_scheme="dark")
        asked, wrong = [], []
        page.on("request", lambda one: asked.append(one.url))
        page.on("pageerror", lambda one: wrong.append(one))
        page.goto(str(http.base_url))
        base = str(http.base_url).rstrip("/")

        page.fill("#max_tokens", "24")
        page.fill("#seed", "3")
        page.fill("#text", "hello")
        page.click("#send")
        playwright.expect(page.locator(".assistant .foot")).to_contain_text("24 tokens")
        first = page.locator(".assistant .token").all_inner_texts()
        assert len(first) > 3  # it came in pieces
        page.locator(".assistant .token").first.hover()
        playwright.expect(page.locator("#tip")).to_contain_text("%")
        _shot(page, "dark_phone")

        page.click("#again")  # the same seed
        playwright.expect(page.locator(".assistant .foot")).to_contain_text("24 tokens")
        assert page.locator(".assistant").count() == 1
        assert "".join(page.locator(".assistant .token").all_inner_texts()) == "".join(first)

        page.fill("#max_tokens", "150")
        page.route("**/v1/chat/completions", lambda route: None)  # an answer that does not come
        page.fill("#text", "more")
        page.click("#send")
        playwright.expect(page.locator("#send")).to_have_text("Stop")
        page.click("#send")
        playwright.expect(page.locator(".assistant .foot").last).to_have_text("stopped")
        page.unroute("**/v1/chat/completions")

        page.fill("#temperature", "-1")
        page.click("#again")
        playwright.expect(page.locator(".assistant.error")).to_contain_text("temperature must lie in")
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1100, "height": 760})
        _shot(page, "light_wide")
        page.click("#new")
        assert page.locator(".said").count() == 0
        assert not wrong and all(url.startswith(base) for url in asked)  # nothing from elsewhere
        browser.close()


def _shot(page, name):
    if folder := os.environ.get("JAXLM_SHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")
