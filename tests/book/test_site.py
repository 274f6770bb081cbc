"""The built book as a site: links, search, weight and layout of the first page."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import matplotlib
import pytest
from browsing import DESKTOP, PATIENCE, PHONE
from fontTools.ttLib import TTFont


def test_internal_links(site):
    """From the first page on, over file://, linkchecker finds no broken link."""
    program = shutil.which("linkchecker") or str(Path(sys.executable).with_name("linkchecker"))
    told = subprocess.run(
        [
            program,
            "--no-status",
            "--no-robots",
            "--verbose",
            "--output=csv/utf-8",
            "--threads=2",
            (site / "intro.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE / 1000,
    )
    lines = [line for line in told.stdout.splitlines() if not line.startswith("#")]
    links = list(csv.DictReader(io.StringIO("\n".join(lines)), delimiter=";"))
    broken = [f"{link['parentname']}: {link['urlname']}: {link['result']}" for link in links if link["valid"] != "True"]
    assert not broken, told.stderr[-2000:]
    assert len(links) > 50, told.stderr[-2000:]


def test_records_lead_to_their_chapter(open_page):
    """Every group of claims and every figure of the gallery links to the chapter that argues with it."""
    page = open_page("claims.html")
    links = page.locator("p.chapter-of a[href*='chapters/']")
    assert links.count() == page.locator("article section section").count() > 0
    page = open_page("gallery.html", page)
    assert page.locator(".gallery-item").count() == page.locator(".figure-links a[href*='chapters/']").count() > 0
    for kind in ("svg", "pdf", "png", "csv"):
        links = page.locator(f".gallery-item a[href$='.{kind}']")
        assert links.count() == page.locator(".gallery-item").count()


def test_every_figure_of_a_chapter_leads_to_what_made_it(open_page, pages, site):
    """Under each figure: its files, the executed notebook, its data, and lines of source that are in the listings."""
    page, seen, wrong = None, 0, []
    for name in (name for name in pages if name.startswith("chapters/")):
        page = open_page(name, page)
        figures = page.locator(".cell_output figure")
        blocks = page.locator("div.provenance")
        assert figures.count() == blocks.count(), name
        for block in blocks.all():
            seen += 1
            told = block.inner_text()
            links = block.locator("a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
            for ending in (".svg", ".pdf", ".png", ".csv", f"{Path(name).stem}.ipynb"):
                wrong += [] if any(link.endswith(ending) for link in links) else [f"{name}: {told[:60]}: no {ending}"]
            sources = [link for link in links if "_modules/" in link]
            wrong += [] if sources else [f"{name}: {told[:60]}: no source"]
            for link in sources:
                file, _, anchor = link.partition("#")
                listing = (site / name).parent.joinpath(file).resolve().read_text(encoding="utf-8")
                wrong += [] if f'id="{anchor}"' in listing else [f"{name}: {link} leads nowhere"]
    assert not wrong
    assert seen >= 10


def test_a_figure_and_its_recorded_twin_are_tabs_of_one(open_page):
    """A link to the recorded one opens its tab, and both are enlarged on request."""
    page = open_page("chapters/04_constrained_trajectory.html")
    page.evaluate("location.hash = '#fig-constrained-paper'")
    twin, here = page.locator("#fig-constrained-paper"), page.locator("#fig-constrained")
    twin.wait_for(state="visible")
    assert twin.is_visible()
    assert not here.is_visible()
    page.locator(".sd-tab-set label").first.click()
    assert here.is_visible()
    assert not twin.is_visible()
    here.locator("button.enlarge").click()
    picture = page.locator("dialog.enlarged img")
    assert picture.is_visible()
    assert picture.get_attribute("src").endswith("constrained.svg")
    page.keyboard.press("Escape")
    assert not picture.is_visible()


def test_chapters_keep_their_form(open_page, pages):
    """A chapter opens with its claim, tells what would break it, has an exercise, and closes with its verdict."""
    page = None
    for name in (name for name in pages if name.startswith("chapters/")):
        page = open_page(name, page)
        assert page.locator("article h1 ~ p").first.inner_text().startswith("Claim."), name
        headings = page.locator("article h2").all_inner_texts()
        assert "What would break this" in [heading.strip("# \n") for heading in headings], name
        assert page.locator("article section section").last.locator("p", has_text="Verdict.").count() == 1, name
        assert "importlib" not in page.locator("article").inner_text(), f"{name}: the cell that installs is shown"


def test_solutions_are_folded_and_open_by_keyboard(open_page):
    page = open_page("chapters/01_progressive_sharpening.html")
    exercise, solution = page.locator("div.admonition.exercise"), page.locator("div.admonition.solution")
    assert exercise.count() == solution.count() >= 1
    inside = solution.first.locator("p:not(.admonition-title)").first
    assert not inside.is_visible()
    solution.first.locator("button.toggle-button").focus()
    page.keyboard.press("Enter")
    assert inside.is_visible()
    assert solution.first.locator("table td").count() > 3, "the solution's numbers were computed"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    twice = {name for name in ids if ids.count(name) > 1 and not name.startswith("MJX")}
    assert not twice


def test_verdicts_are_told_in_words(open_page):
    page = open_page("claims.html")
    badges = page.locator("table.claims .verdict").all_text_contents()
    assert badges
    assert {badge.lstrip("✓✗– ") for badge in badges} <= {"holds", "does not hold", "is not tested here"}


def test_search_finds_a_word(open_page, server):
    page = open_page("search.html?q=sharpness", base=server)
    # Results come one after another: this one comes, or the wait ends the test.
    page.wait_for_selector("#search-results li a[href*='notation']")
    assert page.locator("#search-results li a").count() > 2
    assert not page.complaints.errors
    page = open_page("search.html?q=xyzzyplugh", base=server)
    page.wait_for_function("document.querySelector('#search-results p')?.textContent.trim().length > 0")
    assert page.locator("#search-results li").count() == 0


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("PGD", "04_constrained"), ("GPU", "run"), ("license", "run"), ("citation", "bibliography"),
        ("S(θ)", "01_progressive"), ("λ_2", "several_directions"), ("∇S", "notation"),
    ],
)  # fmt: skip
def test_search_finds_what_readers_call_otherwise(open_page, server, query, page):
    found = open_page(f"search.html?q={urllib.parse.quote(query)}", base=server)
    found.wait_for_selector(f"#search-results li a[href*='{page}']")


def test_search_from_any_page_and_from_a_file(open_page):
    """Ctrl+K opens the search field; the results also come where the book is opened without a server."""
    page = open_page("intro.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("eigenvector")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=eigenvector")
    page.wait_for_function("document.querySelectorAll('#search-results li a').length > 0")
    page.wait_for_load_state("networkidle")  # a failed look-up of an excerpt has been reported then
    assert not page.complaints.errors
    assert not page.complaints.external


def test_first_page_is_light_and_quick(browser, server):
    """Under 1 MB transferred, 200 kB of it scripts, and these take the lesser part of what the page takes in all.

    The part, from .1 to .2, is the least of three loads; of a machine's speed, and of what else it does, it is free.
    """
    parts = []
    for _ in range(3):
        context = browser.new_context(viewport=DESKTOP)
        page, sizes = context.new_page(), {}
        page.on("requestfinished", lambda one, sizes=sizes: sizes.update({one.url: one.sizes()["responseBodySize"]}))
        session = context.new_cdp_session(page)
        session.send("Performance.enable")
        page.goto(f"{server}/intro.html", wait_until="networkidle")
        spent = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
        parts.append(spent["ScriptDuration"] / spent["TaskDuration"])
        context.close()
    assert 50_000 < sum(sizes.values()) < 1_000_000
    assert 10_000 < sum(size for url, size in sizes.items() if ".js" in url) < 200_000
    assert min(parts) < 0.4


def test_every_reader_sees_the_books_own_fonts(open_page, site):
    """Text, italics and frame come from the book's files, which have Greek letters and lie beside their licences."""
    page = open_page("chapters/01_progressive_sharpening.html")
    page.evaluate("document.fonts.ready.then(() => null)")
    loaded = page.evaluate(
        "[...document.fonts].filter((font) => font.status === 'loaded').map((font) => `${font.family} ${font.style}`)"
    )
    assert {"Literata normal", "Literata italic", "Inter normal"} <= set(loaded)
    folder = site / "_static" / "vendor" / "fonts"
    for name in ("literata.woff", "literata-italic.woff", "inter.woff"):
        assert set("Aéηθδαβλε†·≤≈−×₀²→") <= set(map(chr, TTFont(folder / name).getBestCmap())), name
        assert (folder / name).stat().st_size < 100_000
    assert len(list(folder.glob("*-LICENSE.txt"))) == 2


PARTS = """() => Object.fromEntries(["h1", ".subtitle", ".hero-text p:last-child", ".story", ".figure-card",
  ".story img", ".figure-caption", ".provenance", ".paths", ".path:last-child p:last-child"].map((name) => {
    const box = [...document.querySelectorAll("article " + name)].pop().getBoundingClientRect();
    return [name, { top: box.top, bottom: box.bottom, left: box.left, right: box.right }];
  }))"""

#: What a figure may say of itself: (provenance, caption).  None: what it says in this book.
TEXTS = {
    "as built": (None, None),
    "a short one": ("quick scale", "A curve."),
    "many seeds on a cluster": (
        f"paper scale · seed {', '.join(map(str, range(40)))} · 8 × NVIDIA H100 80GB HBM3 (SXM5) behind AMD EPYC 9654 "
        "96-Core Processor, 384 threads · 12 h 31 min of computing · commit 0123456789abcdef0123456789abcdef01234567",
        "Sharpness hovers at 2/η while the loss falls unsteadily, for each learning rate and for every seed. " * 5,
    ),
    "one word without a space": ("device" * 60, "The sharpness, the loss, and the displacement along u. " * 30),
}


def font(file: str) -> str:
    """Style that sets the page in a font which comes with matplotlib: this machine's own fonts play no part."""
    data = base64.b64encode(Path(matplotlib.get_data_path(), "fonts", "ttf", file).read_bytes()).decode()
    face = f"@font-face {{ font-family: Probe; src: url(data:font/ttf;base64,{data}); }}"
    return face + "html { --serif: Probe !important; --sans: Probe !important; }"


FONTS = {
    "the book's": lambda: "",
    "a tenth wider": lambda: "* { letter-spacing: 0.05em !important; }",  # a letter is half as wide as it is high
    "DejaVu Sans": lambda: font("DejaVuSans.ttf"),
    "DejaVu Serif": lambda: font("DejaVuSerif.ttf"),
    "STIX": lambda: font("STIXGeneral.ttf"),  # as narrow as Times
}


@pytest.mark.parametrize("style", FONTS.values(), ids=FONTS)
def test_first_screen_says_it_all(open_page, style):
    """Title, claim, figure and the ways onward stand on a desktop's first screen, whatever the figure and the font."""
    page = open_page("intro.html", viewport=DESKTOP)
    assert page.locator(".story img").count() == 1
    assert page.locator(".path").count() >= 3
    for name, texts in TEXTS.items():
        page = open_page("intro.html", page)
        width, before = page.locator(".subtitle").evaluate(TEXT_WIDTH), page.evaluate(PARTS)
        if style():
            page.add_style_tag(content=style())
            page.evaluate("document.fonts.load('16px Probe').then(() => null)")
            assert page.locator(".subtitle").evaluate(TEXT_WIDTH) != width, "the page is set in the other font"
        for place, text in zip((".story .provenance", ".story .figure-caption"), texts):
            if text:
                page.locator(place).evaluate("(place, text) => { place.textContent = text; }", text)
        parts = page.evaluate(PARTS)
        for part in ("h1", ".subtitle", ".figure-card", ".paths"):
            assert abs(parts[part]["top"] - before[part]["top"]) <= 1, f"{name}: {part} jumps when a font arrives"
        below = {part: box["bottom"] for part, box in parts.items() if box["bottom"] > DESKTOP["height"]}
        assert not below, name
        order = ["h1", ".subtitle", ".figure-card", ".figure-caption", ".provenance", ".paths"]
        for upper, lower in [*itertools.pairwise(order), (".hero-text p:last-child", ".paths")]:
            assert parts[upper]["bottom"] <= parts[lower]["top"] + 1, f"{name}: {upper} lies over {lower}"
        picture = parts[".story img"]
        assert picture["bottom"] - picture["top"] >= 120, f"{name}: the figure can be read"
        assert max(box["right"] for box in parts.values()) <= DESKTOP["width"], name


TEXT_WIDTH = """(element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  return range.getBoundingClientRect().width;
}"""


def test_provenance_that_is_cut_can_be_read(open_page):
    """Where a line has no room for it, its title has the whole; on a phone and on paper nothing is cut."""
    page = open_page("intro.html", viewport=DESKTOP)
    line = page.locator(".story .provenance")
    assert line.get_attribute("title") == line.text_content()
    for text in ("scale", "seed", "thread", "of computing", "commit"):
        assert text in line.text_content()
    line.evaluate("(line) => { line.textContent = line.textContent.repeat(5); }")
    cut = "(line) => line.scrollWidth > line.clientWidth"
    assert line.evaluate(cut)
    page.emulate_media(media="print")
    assert not line.evaluate(cut)
    page.emulate_media(media="screen")
    page.set_viewport_size(PHONE)
    assert not line.evaluate(cut)
