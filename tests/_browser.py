"""A headless Chromium for tests of pages, and what a page says of itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips, and says why, where this machine has none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed: pages are not tested in a browser")
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        # Without a sandbox: that of Chromium refuses to run for root, as in a container.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, file: Path, width: int = 1280, height: int = 900, scheme: str = "light", view: str = ""
) -> Iterator[Page]:
    """A page that is ready. It may say nothing to the console, ask for nothing else and open no dialog.

    Args:
        view: the hash of its address.
    """
    page = _page_of(browser)
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    said: list[str] = []
    listeners: dict[Any, Any] = {
        "console": lambda message: said.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: said.append(f"error: {error}"),
        "dialog": lambda dialog: said.append(f"dialog: {dialog.message}"),
        "request": lambda sent: said.append(sent.url) if sent.url.split("#")[0] != file.as_uri() else None,
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    try:
        page.goto(file.as_uri() + view)
        page.wait_for_selector("html[data-ready]", timeout=10_000)
        yield page
    finally:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
    assert said == []


def _page_of(browser: Browser) -> Page:
    """The browser's one page, empty. A page of its own for every test took nearly half of the time."""
    if not browser.contexts:
        return browser.new_page()
    [page] = browser.contexts[0].pages
    page.goto("about:blank")
    page.mouse.move(0, 0)  # over nothing
    return page


# Text whose contrast with what lies behind it is below WCAG's 4.5 : 1 (3 : 1 if it is large).
LOW_CONTRAST = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = (text) => {
    const srgb = /^color\\(srgb (.*)\\)$/.exec(text);
    const numbers = (srgb ? srgb[1] : text).match(/[\\d.]+/g).map(Number);
    const [r, g, b, a = 1] = numbers;
    return srgb ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const over = (top, under) => [0, 1, 2].map((k) => top[3] * top[k] + (1 - top[3]) * under[k]).concat(1);
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.unshift(at);
    const ground = (at) => parse(getComputedStyle(at).backgroundColor);
    return layers.reduce((under, at) => over(ground(at), under), [255, 255, 255, 1]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode()); ) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility()) continue;
    if (node.closest("figure svg, script, option, :disabled, .hidden")) continue;
    const style = getComputedStyle(node);
    let opacity = 1;
    for (let at = node; at; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
    const ground = behind(node);
    const ink = parse(node instanceof SVGElement ? style.fill : style.color);
    ink[3] *= opacity;
    const [a, b] = [light(over(ink, ground)), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= (style.fontWeight >= 700 ? 18.66 : 24);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}: ${text.data.trim().slice(0, 40)}`);
  }
  return found;
}"""

# Controls without a name that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll("input, select, button, summary, a[href], svg[tabindex]")]
  .filter((node) => node.checkVisibility())
  .filter((node) => !(node.labels?.length || node.getAttribute("aria-label") || node.textContent.trim()))
  .map((node) => node.outerHTML.slice(0, 80))"""

# What reaches beyond the window's right edge and lies in no box that scrolls by itself.
TOO_WIDE = """() => [...document.body.querySelectorAll("*")].filter((node) => {
  const box = node.getBoundingClientRect();
  if (!box.width || box.right <= innerWidth + 0.5 || !node.checkVisibility()) return false;
  for (let at = node.parentElement; at; at = at.parentElement) {
    if (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(at).overflowX)) return false;
  }
  return true;
}).map((node) => node.outerHTML.slice(0, 80))"""
