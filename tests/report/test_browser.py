"""Pages in a browser, where one is installed: on a telephone and on a desk, light and dark, in print and by keyboard."""

import re
import shutil

import numpy as np
import pytest
import torch

from grassmann_ssl import audit_embeddings
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.report.side_by_side import draw_side_by_side
from grassmann_ssl.run import run
from grassmann_ssl.runs import stored_runs
from tests.browser import PROGRAM, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium: `apt-get install chromium` on Debian"),
]
ERRORS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
LARGEST = 3_000_000  # bytes of a page

# Words that start on one line and end on another; hyphens, and the parts of a path, may end a line.
BROKEN = r"""(() => {
  const found = [], walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement.checkVisibility()) continue;
    for (const word of node.textContent.matchAll(/[\p{L}\p{N}]+/gu)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].filter(one => one.width > 0).map(one => one.top));
      if (lines.size > 1) found.push(word[0]);
    }
  }
  return found;
})()"""

# Text whose contrast to what it stands on is below 4.5, or 3 where it is large, as WCAG 2.1 AA has it.
PALE = r"""(() => {
  const numbers = text => text.match(/[\d.]+/g).map(Number);
  const luminance = rgb => rgb.slice(0, 3).map(one => one / 255)
    .map(one => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4)
    .reduce((sum, one, k) => sum + one * [.2126, .7152, .0722][k], 0);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*:not(svg *)")) {
    if (![...element.childNodes].some(one => one.nodeType === 3 && one.textContent.trim()) || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
    const two = [luminance(numbers(style.color)), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (two[0] + .05) / (two[1] + .05);
    if (contrast < (large ? 3 : 4.5)) found.push([element.tagName, element.textContent.slice(0, 40), contrast]);
  }
  return found;
})()"""

# Boxes whose content is wider than they are, and that the keyboard does not reach.
UNREACHED = r"""[...document.querySelectorAll("main *:not(svg *)")].filter(one =>
  one.scrollWidth > one.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(one).overflowX) && one.tabIndex < 0
).map(one => one.outerHTML.slice(0, 80))"""
# What is wider than the window and in no box that scrolls.
WIDE = r"""[...document.querySelectorAll("body *:not(svg *)")].filter(one =>
  one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".box, pre") && !one.matches(".skip")
).map(one => one.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of a comparison, of audits with classes of long names and with pairs, and of two runs side by side."""
    folder = tmp_path_factory.mktemp("pages")
    first = folder / "compare-with-a-long-name-of-its-folder"
    run(
        CompareConfig(
            data="gaussian", objectives=("barlow_twins",), seeds=2, steps=60, dim=3, init_scales=(), out=first
        )
    )
    shutil.copytree(first, folder / "compare-again")
    z = torch.as_tensor(np.random.default_rng(1).standard_normal((120, 8)))
    z[:30] = z[0]
    names = [f"n0{k // 30}_a_class_whose_name_is_a_long_one,of=parts/{k // 30}" for k in range(120)]
    audit_embeddings(z, labels=names).save(folder / "audit")
    audit_embeddings(z[:60].repeat(2, 1), z_positive=z, directions=True).save(folder / "pairs")
    draw_side_by_side(stored_runs([f"{folder}/compare*"])[0], folder / "beside.html")
    return [*sorted(folder.glob("*/report.html")), folder / "beside.html"]


@pytest.fixture(scope="module")
def browser():
    with Browser() as one:
        yield one


def test_pages_are_read_on_a_telephone_and_on_a_desk_light_and_dark(pages, browser):
    for path in pages:
        browser.open(path)
        loaded = [
            one["params"]["request"]["url"]
            for one in browser.events
            if one.get("method") == "Network.requestWillBeSent"
        ]
        assert [url for url in loaded if not url.startswith("data:")] == [path.resolve().as_uri()]
        for width in (400, 1400):
            for dark in (False, True):
                browser.show(width, dark)
                place = path, width, dark
                assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                    place,
                    browser.evaluate(WIDE),
                )
                assert browser.evaluate(WIDE) == [] == browser.evaluate(UNREACHED), place
                assert browser.evaluate(PALE) == [], place
                paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
                assert paper == ("rgb(18, 18, 18)" if dark else "rgb(255, 255, 255)")
            assert browser.evaluate(BROKEN) == [], place
        said = [one for one in browser.events if one.get("method") in ERRORS]
        assert said == [] and path.stat().st_size < LARGEST


def test_panels_are_beside_each_other_only_where_their_letters_are_read(pages, browser):
    rows = (
        "new Set([...document.querySelector('#barlow_twins + figure').querySelectorAll('.panel')]"
        ".map(one => one.getBoundingClientRect().top)).size"
    )
    widths = (
        "[...document.querySelectorAll('.panel')]"
        ".map(one => one.getBoundingClientRect().width / one.viewBox.baseVal.width)"
    )
    for width, stacked in ((1400, 2), (400, 4)):
        browser.open(pages[1], width)
        assert browser.evaluate(rows) == stacked
        assert min(browser.evaluate(widths)) > 0.85  # a letter of 10 points has more than 8 pixels


def test_the_keyboard_reaches_all_and_shows_where_it_is(pages, browser):
    browser.open(pages[1], 400)
    browser.key("Tab")
    focused = "(e => [e.className, e.getBoundingClientRect().left >= 0, getComputedStyle(e).outlineStyle])(document.activeElement)"
    assert browser.evaluate(focused) == ["skip", True, "solid"]
    reached = {}
    for _ in range(20):
        browser.key("Tab")
        name, outline = browser.evaluate(
            "(e => [e.getAttribute('aria-label') || e.tagName, getComputedStyle(e).outlineStyle])(document.activeElement)"
        )
        reached[name] = outline
    reached.pop("BODY", None)  # after the last
    assert set(reached.values()) == {"solid"}
    assert {"Verdicts", "Findings", "Command that repeats this run", "Settings and numbers"} <= set(reached)


def test_print_has_all_that_scrolls_and_is_light(pages, browser):
    browser.open(pages[1], 700, dark=True)
    browser.show(700, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('.panel')).filter") == "none"
    assert not browser.evaluate("document.querySelector('nav').checkVisibility()")
    cut = "[...document.querySelectorAll('pre')].filter(one => one.scrollHeight > one.clientHeight + 1).length"
    assert browser.evaluate(cut) == 0


def test_every_panel_says_what_it_shows(pages):
    for path in pages:
        words = re.findall(r'role="img" aria-label="(.*?)"', path.read_text())
        assert len(words) == len(set(words)) == path.read_text().count("<svg")
        assert all(" against " in one or "shows " in one for one in words), words
