"""Every page of the built book, on a desktop and on a phone, in light and in dark."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import PHONE

# Where a page reads: bare TeX that MathJax did not turn into a formula, outside code and formulas.
RAW_TEX = r"""() => {
  const skipped = "pre, code, script, style, mjx-container, textarea, .highlight";
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest(skipped)) continue;
    if (/\\\(|\\\)|\\\[|\\\]|\$\$|\\(frac|nabla|theta|eta|begin)\b/.test(node.data))
      found.push(node.data.trim().slice(0, 60));
  }
  return found;
}"""

PICTURES = """() => [...document.images].map((image) => ({
  source: image.currentSrc || image.src, broken: image.naturalWidth === 0, alt: image.getAttribute("alt"),
  decorative: image.getAttribute("role") === "presentation" || image.closest("[aria-hidden=true]") !== null
    || (image.getAttribute("alt") === "" && Boolean(image.closest("a")?.textContent.trim())),  // its link has a text
}))"""


#: Only violations are described: naming every passed node takes longer than looking.  No style sheet is fetched again.
OPTIONS = {"resultTypes": ["violations"], "preload": False}


def serious(found: dict) -> list[str]:
    return [
        f"{finding['id']}: {node['html'][:160]} — {node['failureSummary'][:300]}"
        for finding in found["violations"]
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"][:4]
    ]


CONTRAST = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = numbers(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.9) return light(colour);
    }
    return light([255, 255, 255]);
  };
  const page = ground(document.querySelector("main"));
  const ratios = [...document.querySelectorAll(`main p, main li, main td, main h1, main h2, main figcaption, nav a,
      main a, main pre span`)]
    .filter((element) => element.offsetParent !== null && element.textContent.trim())
    .map((element) => {
      const [a, b] = [light(numbers(getComputedStyle(element).color)), ground(element)].sort((p, q) => q - p);
      return { ratio: (a + 0.05) / (b + 0.05), text: element.textContent.trim().slice(0, 50) };
    });
  const cards = [...document.querySelectorAll(".figure-card, main .cell_output img")].map(ground);
  return { page, worst: ratios.sort((p, q) => p.ratio - q.ratio)[0], count: ratios.length, cards };
}"""


def pale(name: str, seen: dict) -> list[str]:
    """The text that stands out least, if by less than 4.5 (WCAG AA)."""
    worst = seen["worst"]
    weak = seen["count"] and worst["ratio"] < 4.5
    return [f"{name}: contrast {worst['ratio']:.2f} of {worst['text']!r}"] if weak else []


#: Pages of every kind, whose colours axe measures too, word by word, which takes it as long as all else together.
COLOURED = (
    "intro.html",
    "chapters/02_edge_of_stability.html",
    "claims.html",
    "lab.html",
    "literature.html",
    "explorer.html",
)


def axe(page, name: str, **options) -> list[str]:
    """What axe finds serious; the colours of most pages are left to our own measure."""
    if name not in COLOURED:
        options |= {"rules": {"color-contrast": {"enabled": False}}}
    return [f"{name}: {finding}" for finding in serious(Axe().run(page, options=OPTIONS | options).response)]


REPAINTED = """() => Promise.all(document.getAnimations().filter((one) => one instanceof CSSTransition)
  .map((one) => one.finished.catch(() => null))).then(() => null)"""


@dataclasses.dataclass
class Seen:
    """What was seen on the pages."""

    wrong: list[str] = dataclasses.field(default_factory=list)
    light: list[str] = dataclasses.field(default_factory=list)
    dark: list[str] = dataclasses.field(default_factory=list)
    formulas: int = 0
    pictures: int = 0
    cards: int = 0
    texts: int = 0
    complaints: Any = None


def whole(page, name: str, seen: Seen) -> None:
    """Formulas and pictures."""
    errors = page.evaluate("document.querySelectorAll('mjx-merror, [data-mjx-error]').length")
    seen.wrong += [f"{name}: {errors} formulas with an error"] if errors else []
    seen.wrong += [f"{name}: raw TeX {text!r}" for text in page.evaluate(RAW_TEX)]
    unset = page.evaluate(
        "[...document.querySelectorAll('.math')].filter((m) => !m.querySelector('mjx-container')).length"
    )
    seen.wrong += [f"{name}: {unset} formulas not set"] if unset else []
    seen.formulas += page.evaluate("document.querySelectorAll('mjx-container').length")
    for picture in page.evaluate(PICTURES):
        seen.pictures += 1
        alt = picture["alt"] or ""
        named = re.search(r"\.(png|svg|jpe?g|gif|webp|pdf)$|^[0-9a-f]{16,}|_images/", alt.strip(), re.IGNORECASE)
        if picture["broken"]:
            seen.wrong.append(f"{name}: broken picture {picture['source']}")
        if named or (len(alt.strip()) < 3 and not picture["decorative"]):
            seen.wrong.append(f"{name}: alt text {alt!r} of {picture['source']}")


def in_light(page, name: str, seen: Seen) -> None:
    """Every rule of axe that reads no style sheet, colours aside, and our own measure of contrast."""
    seen.light += pale(name, page.evaluate(CONTRAST)) + axe(page, name)


def in_dark(page, name: str, seen: Seen) -> None:
    """Colours only: the rest is as in light."""
    found = page.evaluate(CONTRAST)
    seen.dark += [f"{name}: ground of luminance {found['page']:.2f}"] if found["page"] > 0.05 else []
    seen.dark += pale(name, found)
    seen.dark += [f"{name}: a figure on a ground of luminance {card:.2f}" for card in found["cards"] if card < 0.7]
    seen.cards, seen.texts = seen.cards + len(found["cards"]), seen.texts + found["count"]
    if name in COLOURED:
        seen.dark += axe(page, name, runOnly={"type": "rule", "values": ["color-contrast"]})


@pytest.fixture(scope="module")
def seen(visit, pages) -> Seen:
    """Every page, loaded once on a desktop: as it stands, in light, then in dark."""
    found = Seen()
    with visit(color_scheme="light") as open_page:
        page = None
        for name in pages:
            page = open_page(name, page)
            whole(page, name, found)
            if not name.startswith("_modules/"):  # Sphinx's own listings of source code
                in_light(page, name, found)
                page.emulate_media(color_scheme="dark")
                page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
                page.evaluate(REPAINTED)
                in_dark(page, name, found)
                page.emulate_media(color_scheme="light")
        found.complaints = page.complaints
    return found


def test_desktop_pages_are_whole(seen, pages):
    """No external request, no error, every formula set, every picture there and described in words."""
    assert {*COLOURED, "gallery.html", "status.html", "api.html", "notation.html"} <= set(pages)
    assert not seen.complaints.external
    assert not seen.complaints.errors
    assert not seen.wrong
    # The checks looked at something.
    assert seen.formulas > 50
    assert seen.pictures > len(pages) / 2


#: What other machines bring: a font that is a tenth wider, and a device whose name does not wrap.
WIDER_FONT = """document.head.append(Object.assign(document.createElement("style"),
  { textContent: "* { letter-spacing: 0.05em !important; }" }));"""
LONG_NAMES = """for (const place of document.querySelectorAll(".provenance, .exp-provenance, table.status td"))
  (place.querySelector("p") ?? place).append("device".repeat(60));"""


#: Displayed formulas cut off at their side, or showing the room between their lines as text, and how many there are.
CLIPPED = """() => {
  const boxes = [...document.querySelectorAll('mjx-container[display="true"]')].filter((box) => box.clientWidth);
  const wide = boxes.filter((box) => box.scrollWidth > box.clientWidth + 2 || /\\dpt\\]/.test(box.textContent));
  return [wide.map((box) => box.textContent.trim().slice(0, 80)), boxes.length];
}"""


def test_phone_pages_do_not_scroll_sideways(open_page, pages):
    """Nor does a displayed formula: the page sets a wide one in several lines, or in smaller type."""
    page, wide, clipped, formulas = None, {}, {}, 0
    for name in pages:
        page = open_page(name, page, viewport=PHONE, is_mobile=True, has_touch=True)
        cut, count = page.evaluate(CLIPPED)
        clipped |= {name: cut} if cut else {}
        formulas += count
        for wider in ("", WIDER_FONT, LONG_NAMES):
            page.evaluate(f"() => {{ {wider} }}")
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > PHONE["width"]:
                wide[name, wider] = width
    assert not wide
    assert not clipped
    assert formulas > 100
    assert not page.complaints.errors


def test_accessible_in_light(seen):
    assert not seen.light


def test_dark_theme_is_legible(seen, open_page):
    """In dark the page is dark, its text stands out (by our measure and by axe's), and figures lie on a light card."""
    loaded = Seen()  # the other pages were switched over
    in_dark(open_page("intro.html", color_scheme="dark"), "intro.html", loaded)
    assert not loaded.dark
    assert not seen.dark
    assert seen.cards
    assert seen.texts > 100


def test_theme_switch_keeps_its_choice(open_page):
    page = open_page("intro.html", color_scheme="light")
    seen = set()
    for _ in range(3):
        page.locator(".theme-switch-button").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
        if page.evaluate("document.documentElement.dataset.mode") == "dark":
            open_page("claims.html", page)
            assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert seen == {"light", "dark"}


def test_pages_can_be_used_by_keyboard(open_page):
    """The first stop is the link that skips to the content; what scrolls sideways can be reached."""
    page = open_page("claims.html", viewport=PHONE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main-content"
    page = open_page("notation.html", viewport=PHONE)
    unreachable = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((box) => {
          const style = getComputedStyle(box);
          const scrolls = ["auto", "scroll"].includes(style.overflowX) && box.scrollWidth > box.clientWidth + 1;
          const stops = "a, button, input, [tabindex='0']";
          return scrolls && box.clientWidth > 0 && !box.querySelector(stops) && !box.closest("[tabindex='0']");
        }).map((box) => box.outerHTML.slice(0, 80))"""
    )
    assert not unreachable


def test_print_leaves_out_the_frame(open_page):
    page = open_page("claims.html", color_scheme="dark")
    page.emulate_media(media="print")
    hidden = page.evaluate("getComputedStyle(document.querySelector('.bd-sidebar-primary')).display")
    assert hidden == "none"
    assert page.evaluate("document.querySelector('article h1').offsetParent !== null")


def test_punctuation_stays_with_its_formula(site, pages):
    """A browser may break a line after a formula, which is a box to it: nothing of a sentence's marks begins a line."""
    apart = r'(?<!"together">)<span class="math notranslate nohighlight">\\\([^<]*\\\)</span>[.,;:!?)]'
    # The article: a heading that the contents repeat is not prose.
    texts = {name: (site / name).read_text(encoding="utf-8") for name in pages}
    texts = {name: text.partition("<article")[2].partition("</article>")[0] for name, text in texts.items()}
    assert sum('<span class="together">' in text for text in texts.values()) > 10
    assert not {name: found[:3] for name, text in texts.items() if (found := re.findall(apart, text))}
