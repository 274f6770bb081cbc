"""The literature page: exactly the listed works, in the list and in the graph; hover, click, drag, zoom."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from browsing import PHONE, settle

SOURCE = Path(__file__).resolve().parents[2] / "book" / "literature.yml"

#: SHA-256 of the titles as the list around the paper gives them, sorted, one a line: none is added, lost or misspelt.
TITLES = "997f2c4b0b0d96e6d73a0b3ddc669db63dc098d1d263e7f2285e2bfbacb4e3a3"
READY = "document.querySelector('#literature[data-ready]') !== null"


@pytest.fixture(scope="module")
def data() -> dict:
    return yaml.safe_load(SOURCE.read_text(encoding="utf-8"))


@pytest.fixture
def literature(open_page, site):
    assert (site / "literature.html").is_file(), "the built book has no literature page"

    def open_(**context):
        page = open_page("literature.html", **({"reduced_motion": "reduce"} | context))
        page.wait_for_function(READY)
        page.locator(".lit-stage").scroll_into_view_if_needed()
        return page

    return open_


def plain(text: str) -> str:
    """Text with straight quotes, plain dashes and single spaces; the book's pages set them typographically."""
    return " ".join(
        text.replace("--", "–").replace("“", '"').replace("”", '"').replace("’", "'").replace("‘", "'").split()
    )


def on_screen(page, work: str) -> tuple[float, float]:
    """Where a node of the graph is, in the pixels of the window."""
    return tuple(
        page.evaluate(
            """(id) => {
              const network = eosLiterature.network, at = network.canvasToDOM(network.getPosition(id));
              const box = document.querySelector(".lit-canvas").getBoundingClientRect();
              return [box.left + at.x, box.top + at.y];
            }""",
            work,
        )
    )


def test_exactly_the_listed_works(data):
    titles = sorted(work["title"] for work in data["works"])
    assert len(titles) == len(set(titles)) == 74
    assert hashlib.sha256("\n".join(titles).encode()).hexdigest() == TITLES
    for work in data["works"]:
        assert work["authors"]
        assert work["sentence"].endswith("."), work["id"]
        assert work["sentence"].count(". ") == 0, f"{work['id']}: one sentence"
    undated = {work["id"] for work in data["works"] if "year" not in work}
    assert undated == {"even-gd", "shapira-dynamics", "fox-nonmonotone", "sarnthein-escaping"}


def test_every_work_is_in_the_list_and_in_the_graph(literature, data):
    page = literature()
    works = {work["id"]: work for work in data["works"]}
    listed = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".lit-work")].map((item) =>
          [item.id, [item.querySelector("a").textContent, item.querySelector(".lit-by").textContent,
                     item.querySelector(".lit-told").textContent, item.querySelector("a").href]]))"""
    )
    assert set(listed) == set(works)
    for name, (title, by, told, address) in listed.items():
        work = works[name]
        assert plain(title) == plain(work["title"])
        assert all(author in by for author in work["authors"])
        assert str(work.get("year", "no year listed")) in by
        assert plain(work["sentence"]) in plain(told)
        assert data["relations"][work["relation"]] in told
        assert work.get("arxiv", "http") in address
    assert set(page.evaluate("() => eosLiterature.nodes.getIds()")) == {"paper", *works}
    edges = page.evaluate("() => eosLiterature.edges.get().map((edge) => [edge.from, edge.to, edge.relation])")
    assert sorted(edges) == sorted([name, "paper", work["relation"]] for name, work in works.items())
    headings = [heading.strip("# \n") for heading in page.locator("section[id^=theme-] > h3").all_inner_texts()]
    assert headings == [theme["name"] for theme in data["themes"]]


def test_hover_shows_the_title(literature, data):
    page = literature()
    work = data["works"][12]
    page.mouse.move(*on_screen(page, work["id"]))
    page.wait_for_function("document.querySelector('.vis-tooltip')?.style.visibility === 'visible'")
    assert page.locator(".vis-tooltip").inner_text() == work["title"]


def test_click_shows_the_details(literature, data):
    page = literature()
    for work in (data["works"][19], data["works"][71]):
        page.mouse.click(*on_screen(page, work["id"]))
        page.wait_for_function(
            "(t) => document.querySelector('#literature-panel h2').textContent === t", arg=work["title"]
        )
        panel = page.locator("#literature-panel").inner_text()
        assert all(author in panel for author in work["authors"])
        assert work["sentence"] in panel
        assert (
            page.evaluate("(id) => eosLiterature.edges.get(id).label", work["id"])
            == data["relations"][work["relation"]]
        )
        link = page.locator("#literature-panel a").first.get_attribute("href")
        assert work.get("arxiv", work.get("url")) in link
    assert not page.complaints.external
    assert not page.complaints.errors


def test_drag_moves_a_node(literature, data):
    page = literature()
    name = data["works"][40]["id"]
    before = page.evaluate("(id) => eosLiterature.network.getPosition(id)", name)
    x, y = on_screen(page, name)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 30, steps=6)
    page.mouse.up()
    after = page.evaluate("(id) => eosLiterature.network.getPosition(id)", name)
    scale = page.evaluate("() => eosLiterature.network.getScale()")
    assert after["x"] - before["x"] == pytest.approx(60 / scale, abs=3 / scale)
    assert after["y"] - before["y"] == pytest.approx(-30 / scale, abs=3 / scale)


def test_zoom_by_buttons_wheel_and_keyboard(literature):
    page = literature()

    def scale() -> float:
        return page.evaluate("() => eosLiterature.network.getScale()")

    start = scale()
    page.click("[aria-label='Zoom in']")
    nearer = scale()
    assert nearer > 1.2 * start
    page.click("[aria-label='Zoom out']")
    assert scale() < nearer
    page.click("[aria-label='Show all']")
    assert scale() == pytest.approx(start, rel=0.01)
    box = page.locator(".lit-canvas").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.keyboard.press("Escape")
    page.mouse.click(10, 10)  # elsewhere: the wheel is the page's
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.evaluate(
        "() => { addEventListener('wheel', () => { window.wheeled = true; }, { capture: true, once: true }); }"
    )
    page.mouse.wheel(0, -200)
    page.wait_for_function("window.wheeled")
    settle(page)
    assert scale() == pytest.approx(start, rel=0.01)
    page.locator(".lit-stage").scroll_into_view_if_needed()
    box = page.locator(".lit-canvas").bounding_box()
    page.mouse.click(box["x"] + 20, box["y"] + 20)
    page.mouse.wheel(0, -200)
    page.wait_for_function("(s) => eosLiterature.network.getScale() > 1.02 * s", arg=start)


def test_keyboard_goes_from_the_list_to_the_graph(literature, data):
    """A button in every entry of the list; it selects the work's node and tells its details in a live region."""
    page = literature()
    assert page.locator(".lit-work .lit-show").count() == 74
    work = data["works"][5]
    page.focus(f"#{work['id']} .lit-show")
    page.keyboard.press("Enter")
    assert page.evaluate("() => eosLiterature.network.getSelectedNodes()") == [work["id"]]
    assert page.locator("#literature-panel[aria-live=polite] h2").inner_text() == work["title"]


def test_filter_by_relation(literature, data):
    page = literature()
    page.click("[data-relation=questions]")
    visible = page.locator(".lit-work:visible").count()
    assert visible == sum(work["relation"] == "questions" for work in data["works"]) < 74
    page.click("[data-relation=questions]")
    assert page.locator(".lit-work:visible").count() == 74


def test_on_a_phone_everything_is_inside(literature):
    page = literature(viewport=PHONE)
    boxes = page.locator("#literature *").evaluate_all("all => all.map((each) => each.getBoundingClientRect().right)")
    assert max(boxes) <= PHONE["width"]
    inside = page.evaluate(
        """() => {
          const { network, nodes } = eosLiterature, box = document.querySelector(".lit-canvas").getBoundingClientRect();
          return nodes.getIds().map((id) => network.canvasToDOM(network.getPosition(id)))
            .every(({ x, y }) => x > 0 && y > 0 && x < box.width && y < box.height);
        }"""
    )
    assert inside


def test_without_scripts_the_list_remains(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "literature.html").as_uri())
    assert page.locator(".lit-work:visible").count() == 74
    assert "The list below" in page.locator("#literature noscript").inner_text()
    context.close()
