"""The built book as a site: links, search, weight of the first page."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from pathlib import Path

from browsing import DESKTOP


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
        timeout=120,
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
    assert {badge.lstrip("✓✗ ") for badge in badges} <= {"holds", "does not hold"}


def test_search_finds_a_word(open_page, server):
    page = open_page("search.html?q=sharpness", base=server)
    page.wait_for_function("document.querySelectorAll('#search-results li a').length > 2", timeout=10_000)
    addresses = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
    assert any("notation" in address for address in addresses)
    assert not page.complaints.errors
    page = open_page("search.html?q=xyzzyplugh", base=server)
    page.wait_for_function("document.querySelector('#search-results p')?.textContent.trim().length > 0", timeout=10_000)
    assert page.locator("#search-results li").count() == 0


def test_search_from_any_page_and_from_a_file(open_page):
    """Ctrl+K opens the search field; the results also come where the book is opened without a server."""
    page = open_page("intro.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("eigenvector")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=eigenvector")
    page.wait_for_function("document.querySelectorAll('#search-results li a').length > 0", timeout=10_000)
    page.wait_for_timeout(300)  # a failed look-up of an excerpt would be reported now
    assert not page.complaints.errors
    assert not page.complaints.external


def test_first_page_is_light_and_quick(browser, server):
    """Under 1 MB transferred and interactive within a second: the best of three loads, on a shared machine."""
    times = []
    for _ in range(3):
        context = browser.new_context(viewport=DESKTOP)
        page, sizes = context.new_page(), []
        page.on("requestfinished", lambda request, sizes=sizes: sizes.append(request.sizes()["responseBodySize"]))
        page.goto(f"{server}/intro.html", wait_until="load")
        page.wait_for_timeout(200)
        timing = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
        times.append(page.evaluate(timing))
        context.close()
    assert 50_000 < sum(sizes) < 1_000_000
    assert min(times) < 1000


def test_first_screen_says_it_all(open_page):
    """Title, claim, figure and the ways onward stand on the first screen of a desktop."""
    page = open_page("intro.html")
    below = page.evaluate(
        """[...document.querySelectorAll("h1, .hero-text, .story img, .paths")]
          .filter((part) => part.getBoundingClientRect().bottom > innerHeight)
          .map((part) => part.className || part.tagName)"""
    )
    assert page.locator(".story img").count() == 1
    assert page.locator(".path").count() >= 3
    assert not below
