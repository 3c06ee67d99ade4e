"""The site of `make docs`: whole, searched from disk, quiet, readable on a phone; it asks no other host."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag

import pytest
from _browser import TOO_WIDE, chromium
from _long import mostly_long

from docs.generate.stage import ROOT, digest, pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SITE = ROOT / "build" / "docs" / "html"
# What a reader may search.
SEARCHED = ("reliability diagram", "jpeg_scaled", "bootstrap", "effective robustness", "openai_80")
BROKEN = "[...document.images].filter((one) => one.complete && !one.naturalWidth).map((one) => one.src)"
RESULTS = "#search-results ul.search li a"


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of the built pages."""
    made = SITE / "sources.sha256"
    if not made.is_file():
        pytest.skip("no site is built here: `make docs` builds build/docs/html")
    if made.read_text(encoding="utf-8") != digest():
        pytest.skip("build/docs/html was made from other pages: `make docs` builds it anew")
    return SITE


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a phone's width. No page may write to the console or ask another host."""
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{page.url}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
    page.on("request", lambda request: said.append(request.url) if _elsewhere(request.url) else None)
    yield page
    page.close()
    assert said == []


def _elsewhere(url: str) -> bool:
    return not url.startswith((SITE.as_uri(), "data:", "blob:"))


class Targets(HTMLParser):
    """What a page points to, what it loads, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.targets.add(found["href"])
        elif "src" in found or tag == "link":
            self.loaded.add(found.get("src", found.get("href", "")))


def problems_of(site: Path) -> list[str]:
    """Links, anchors and files that are not there, and what a page would load from another host."""
    read = {
        path.resolve(): Targets(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))
    }
    found = []
    for path, page in read.items():
        found += [f"{path.name} loads {url}" for url in page.loaded if url.startswith(("http", "//"))]
        for url in (page.targets | page.loaded) - {""}:
            if url.startswith(("http:", "https:", "mailto:", "data:", "//")):
                continue
            target, anchor = map(unquote, urldefrag(url))
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            if not file.is_file():
                found.append(f"{path.name}: {url} is not there")
            elif anchor and file in read and anchor not in read[file].anchors:
                found.append(f"{path.name}: {url} has no such anchor")
    return found


def test_a_broken_page_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="here"><a href="b.html">b</a><a href="#here">h</a><a href="#gone">g</a><img src="c.png">'
        '<script src="https://cdn.example/x.js"></script><a href="https://elsewhere.example">e</a>'
    )
    assert sorted(problems_of(tmp_path)) == [
        "a.html loads https://cdn.example/x.js",
        "a.html: #gone has no such anchor",
        "a.html: b.html is not there",
        "a.html: c.png is not there",
    ]


def test_every_link_anchor_and_file_is_there(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) >= len(pages())
    assert problems_of(site) == []


def test_tutorials_were_executed(site: Path) -> None:
    notebooks = [
        name for name, path in pages().items() if "```{code-cell}" in path.read_text(encoding="utf-8")
    ]
    assert len(notebooks) >= 5
    for name in notebooks:
        text = (site / name).with_suffix(".html").read_text(encoding="utf-8")
        assert text.count("cell_output") > 2, name
        assert "Traceback" not in text, name


@pytest.mark.parametrize("every", mostly_long([8, 1], keep=[8]))
def test_no_page_is_wider_than_a_phone(site: Path, page: Page, every: int) -> None:
    wide = {}
    for name in list(pages())[::every]:
        page.goto((site / name).with_suffix(".html").as_uri())
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide[name] = page.evaluate(TOO_WIDE)
        assert page.evaluate(BROKEN) == []
    assert wide == {}


@pytest.mark.parametrize("words", mostly_long(SEARCHED, keep=("reliability diagram", "openai_80")))
def test_search_finds_words_from_disk(site: Path, page: Page, words: str) -> None:
    page.set_default_timeout(10_000)
    page.goto((site / "search.html").as_uri() + f"?q={words.replace(' ', '+')}")
    page.locator(RESULTS).first.click()
    page.wait_for_load_state()
    assert "search.html" not in page.url
    text = page.inner_text("body").lower()
    assert [word for word in words.split() if word not in text] == []


def test_search_finds_nothing_where_there_is_nothing(site: Path, page: Page) -> None:
    page.goto((site / "search.html").as_uri() + "?q=zebrafish")
    page.wait_for_selector("#search-results p.search-summary")
    assert page.locator(RESULTS).count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_reader_s_colours(site: Path, page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto((site / "index.html").as_uri())
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(ground[:3]) < 200) == (scheme == "dark")
