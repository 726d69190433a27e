"""The page in headless Chromium: results, an empty result, an error, a phone's width, the keyboard alone."""

from __future__ import annotations

import json
import shutil

import pytest

from skillmatch_ray.serving.keys import KEYS_VARIABLE, ApiKeys

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """A fresh page; what the browser complained of, and what was fetched from elsewhere, must be nothing."""
    opened = browser.new_page(viewport={"width": 1100, "height": 900})
    complaints, elsewhere = [], []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda m: complaints.append(m.text) if "Content Security Policy" in m.text else None)
    opened.on("request", lambda r: None if r.url.startswith((address, "data:")) else elsewhere.append(r.url))
    opened.goto(address)
    yield opened
    opened.close()
    assert complaints == []
    assert elsewhere == []


def search(page, brief="React developer\nWe rebuild our shop."):
    page.fill("#text", brief)
    page.click("#go")
    page.wait_for_selector("#results:not([aria-busy])")


def test_results_show_scores_sections_and_skills(page):
    page.fill("#skills", "React")
    search(page)
    page.wait_for_selector(".card")
    assert page.locator(".card").count() == 10
    scores = [float(text) for text in page.locator(".score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    assert page.locator(".card").first.locator(".bar").count() >= 1
    assert page.locator(".skills li.match").count() >= 1
    assert "of your brief" in page.locator(".asked").first.text_content()
    assert "10 freelancers" in page.text_content("#summary")
    for hop in ("encode", "search", "explain", "in all"):
        assert hop in page.text_content("#timing")
    assert "release" in page.text_content("#release")


def test_an_empty_result_says_what_to_do(page):
    page.fill("#countries", "AQ")
    search(page)
    page.wait_for_function("document.getElementById('summary').textContent.includes('Nobody passes')")
    assert page.locator(".card").count() == 0
    assert page.is_hidden("#error")
    page.click("#list button")
    page.wait_for_selector(".card")
    assert page.input_value("#countries") == ""


def test_an_error_is_shown_with_its_field(page):
    page.fill("#latitude", "48.8")
    search(page)
    page.wait_for_selector("#error:visible")
    assert "longitude" in page.text_content("#error")
    assert page.get_attribute("#longitude", "aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "longitude"
    page.click("#clear")
    search(page)
    page.wait_for_selector(".card")
    assert page.is_hidden("#error")
    assert page.get_attribute("#longitude", "aria-invalid") is None


def test_a_brief_without_a_word_is_asked_for(page):
    search(page, "  ")
    page.wait_for_selector("#error:visible")
    assert page.evaluate("document.activeElement.id") == "text"


def test_an_example_starts_a_search_and_similar_ones_lead_back(page):
    page.click("#examples button >> nth=1")
    page.wait_for_selector(".card")
    first = page.locator(".card .headline").first.text_content()
    page.click(".similar >> nth=0")
    page.wait_for_selector("#back:visible")
    assert first in page.text_content("#summary")
    page.click("#back")
    page.wait_for_selector("#back", state="hidden")
    assert page.locator(".card .headline").first.text_content() == first


def test_active_filters_are_counted_and_distances_told(page):
    page.fill("#latitude", "48.85")
    page.fill("#longitude", "2.35")
    page.check("#include_unknown")
    assert page.text_content("#active") == "2"
    search(page)
    page.wait_for_selector(".card")
    assert "km away" in page.text_content("#list")


def test_the_page_asks_for_a_key_where_one_is_wanted(page, keys, monkeypatch):
    monkeypatch.setenv(KEYS_VARIABLE, "secret-key")
    monkeypatch.setattr(keys, "_fixed", ApiKeys()._fixed)
    search(page)
    page.wait_for_selector("#key:visible")
    page.fill("#key", "secret-key")
    search(page)
    page.wait_for_selector(".card")


def test_markup_in_a_profile_stays_text(page, local):
    profile = {"headline": "<img src=x onerror=document.title='hacked'>", "country": "GL"}
    page.evaluate(
        "body => fetch('/v1/freelancers/marked', {method: 'PUT', headers: {'Content-Type': 'application/json'}, body})",
        json.dumps(profile),
    )
    page.fill("#countries", "GL")
    search(page)
    page.wait_for_selector(".card")
    assert page.text_content(".headline") == profile["headline"]
    assert page.title() == "skillmatch"
    local.index.service.delete("marked")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_looks_and_works_by_keyboard(page, scheme):
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    page.keyboard.press("Tab")  # the link that skips the form
    page.keyboard.press("Tab")
    page.keyboard.type("Tax adviser for a small shop")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".card")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.activeElement.id") == "results"
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(20, 23, 26)") is (scheme == "dark")
