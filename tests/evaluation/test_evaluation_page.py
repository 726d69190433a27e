"""The page of an evaluation: whole, self-contained, and nothing that documents say is markup. Seen by Chromium."""

from __future__ import annotations

import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from skillmatch_ray.config import ModelSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.evaluation import plots
from skillmatch_ray.evaluation.evaluate import evaluate
from skillmatch_ray.evaluation.page import best_floor, render_page, write_page
from skillmatch_ray.model.matcher import Matcher

EVIL = "<script>document.title='owned'</script><img src='https://example.com/x.png'>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def report(tiny_backbone, tiny_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("evil")
    for table in ("projects", "freelancers", "interactions"):
        rows = [json.loads(line) for line in (tiny_dataset / f"{table}.jsonl").read_text().splitlines()]
        rows = rows if table == "interactions" else [{**row, "title": EVIL, "headline": EVIL} for row in rows]
        (root / f"{table}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    matcher = Matcher.untrained(tiny_backbone, ModelSettings(layers=0))
    return evaluate(Dataset(root), tiny_backbone, {"model": matcher.towers})


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    """The written page."""
    return write_page(report, tmp_path_factory.mktemp("page") / "new", {"versions": {"python": "3"}})


class Sources(html.parser.HTMLParser):
    """What a page would load, and the tags that it has."""

    def __init__(self):
        super().__init__()
        self.loads, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "srcset", "data"}]


def test_page_loads_nothing_and_escapes_documents(page):
    found = Sources()
    found.feed(text := page.read_text())
    assert len(found.loads) == 7
    assert all(source.startswith("data:image/") for source in found.loads)
    assert "script" not in found.tags
    assert "&lt;script&gt;" in text
    assert not re.search(r"url\(|@import", text)


def test_page_names_the_figures_of_the_report(report, page):
    text = page.read_text()
    assert f"<b>{report.content['model']['map']:.3f}</b>" in text
    assert best_floor(report) in text
    for name in report.systems():
        assert name in text


def test_page_without_a_model_shows_the_floors(tiny_backbone, tiny_dataset):
    text = render_page(evaluate(Dataset(tiny_dataset), tiny_backbone, {}), {})
    assert "No model was given" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium")
def test_a_browser_draws_every_image_and_runs_nothing(page):
    from playwright.sync_api import sync_playwright

    asked = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.as_uri())
        widths = tab.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        title = tab.title()
        browser.close()
    assert len(widths) == 7
    assert min(widths) > 100
    assert "owned" not in title
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_shows_all_of_it_on_the_grounds_of_its_scheme(page, scheme):
    """390 pixels, a telephone: wide tables scroll in their own frames, the page itself does not."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
        tab.goto(page.as_uri())
        width = tab.evaluate("document.documentElement.scrollWidth")
        grounds = tab.eval_on_selector_all("body, section", "all => all.map(e => getComputedStyle(e).backgroundColor)")
        browser.close()
    assert width <= 390
    shades = [int(re.findall(r"\d+", ground)[0]) for ground in grounds]
    assert (max(shades) < 80) if scheme == "dark" else (min(shades) > 200)


def test_equal_figures_are_equal_bytes():
    first, again = (
        plots.image(plots.heat_map({("en", "fr"): 0.5, ("fr", "fr"): 1.0}, "project", "freelancer")) for _ in "ab"
    )
    assert first == again


def test_a_heat_map_tells_each_value_and_leaves_gaps_empty():
    drawn = plots.heat_map({("en", "fr"): 0.25, ("de", "de"): -0.5}, "project", "freelancer", signed=True)
    assert sorted(text.get_text() for text in drawn.axes[0].texts) == ["+0.25", "-0.50"]


def test_a_map_of_more_groups_than_colours_has_a_grey_rest():
    groups = [f"g{i % 30:02d}" for i in range(120)]
    drawn = plots.embedding_map(np.random.default_rng(0).normal(size=(120, 2)), groups)
    legend = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
    assert legend == ["others", *(f"g{i:02d}" for i in range(len(plots.GROUPS)))]


def test_neighbours_stay_neighbours_on_the_map():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 16, dtype=np.float32), 12, axis=0)
    flat = plots.flatten(centres + 0.05 * rng.normal(size=centres.shape).astype(np.float32), seed=0)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) // 12 == np.arange(36) // 12).all()
