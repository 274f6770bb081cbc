"""The literature page: exactly the listed works, in the list and in the graph; hover, click, drag, zoom."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from browsing import PATIENCE, PHONE, settle
from test_extension import CLAIM, EXTENSIONS, FIGURE, NOTEBOOK, write

BOOK = Path(__file__).resolve().parents[2] / "book"
SOURCE = BOOK / "references.bib"

#: SHA-256 of the titles as the list around the paper gives them, sorted, one a line: none is added, lost or misspelt.
TITLES = "997f2c4b0b0d96e6d73a0b3ddc669db63dc098d1d263e7f2285e2bfbacb4e3a3"
READY = "document.querySelector('#literature[data-ready]') !== null"


@pytest.fixture(scope="module")
def extension():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BOOK / "_ext"))
        yield importlib.import_module("literature")


@pytest.fixture(scope="module")
def works(extension) -> list[dict]:
    return extension.load(SOURCE)[1]


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


def test_exactly_the_listed_works(works):
    titles = sorted(work["title"] for work in works)
    assert len(titles) == len(set(titles)) == 74
    assert hashlib.sha256("\n".join(titles).encode()).hexdigest() == TITLES
    for work in works:
        assert work["authors"]
        assert work["sentence"].endswith("."), work["id"]
        assert work["sentence"].count(". ") == 0, f"{work['id']}: one sentence"
    undated = {work["id"] for work in works if work["where"].startswith("no year listed")}
    assert undated == {"even-gd", "shapira-dynamics", "fox-nonmonotone", "sarnthein-escaping"}


def test_no_work_stands_twice():
    """Each entry parses, and shares neither title nor number nor address with another, listed or cited."""
    from pybtex.database import parse_file

    entries = parse_file(str(SOURCE), "bibtex", encoding="utf-8").entries
    assert len(entries) == len(re.findall(r"^@\w+{", SOURCE.read_text(encoding="utf-8"), re.MULTILINE))
    twice = {
        (field, value)
        for field in ("title", "eprint", "url")
        for value, count in Counter(entry.fields.get(field, "").casefold() for entry in entries.values()).items()
        if value and count > 1
    }
    # The list around the paper names this work under its earlier title too, and our sentence says so.
    assert twice == {("eprint", "2311.15051")}
    assert "under an earlier title" in entries["phunyaphibarn-2023-warmup"].fields["annote"]
    assert all(entry.persons["author"] and entry.fields["title"] for entry in entries.values())


def cited_in_sources() -> set[str]:
    """Keys that pages and notebooks cite."""
    sources = [*BOOK.glob("*.md"), *(BOOK.parent / "notebooks").glob("*.ipynb")]
    found = (re.findall(r"{cite:\w+}`([^`]+)`", file.read_text(encoding="utf-8")) for file in sources)
    return {key.strip() for keys in found for several in keys for key in several.split(",")}


def test_an_entry_is_listed_or_cited():
    """A work that the given list does not have is in the bibliography because a page cites it."""
    from pybtex.database import parse_file

    entries, cited = parse_file(str(SOURCE), "bibtex", encoding="utf-8").entries, cited_in_sources()
    assert cited <= set(entries)
    assert {key for key, entry in entries.items() if "theme" not in entry.fields} <= cited


def test_every_work_that_a_chapter_measures_is_in_the_bibliography():
    from pybtex.database import parse_file

    known = {
        entry.fields.get("eprint") for entry in parse_file(str(SOURCE), "bibtex", encoding="utf-8").entries.values()
    }
    for notebook in (BOOK.parent / "notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        texts = {getattr(node, "value", None) for source in code for node in ast.walk(ast.parse(source))}
        named = {text for text in texts if isinstance(text, str) and re.fullmatch(r"\d{4}\.\d{5}", text)}
        assert named <= known, notebook.name


def test_chapters_are_counted_by_work(extension):
    claims = [{"work": work, "notebook": notebook} for work, notebook in ("1a", "1b", "1a", "2a")]
    claims += [{"work": "", "notebook": "a"}, {"notebook": "b"}]
    found = {
        work: [(each["notebook"], each["count"]) for each in some] for work, some in extension.measured(claims).items()
    }
    assert found == {"1": [("a", 2), ("b", 1)], "2": [("a", 1)]}


def test_a_measured_work_names_its_chapter_and_its_claims(tmp_path):
    """In a small book: one listed and one cited work are measured, no other; the links lead to what there is."""
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "chapters").mkdir(parents=True)
    (source / "_assets").mkdir()
    shutil.copy(SOURCE, source)
    (source / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(EXTENSIONS)!r})\n"
        "extensions = ['myst_parser', 'sphinx.ext.mathjax', 'eosbook', 'literature']\n"
        "myst_enable_extensions = ['attrs_block', 'attrs_inline', 'colon_fence', 'dollarmath', 'substitution']\n"
        "html_theme = 'basic'\nexclude_patterns = ['_generated', '_assets']\nhtml_static_path = ['_assets']\n"
        "mathjax_path = 'vendor/mathjax/tex-svg.js'\n"
    )
    directives = "".join(f"```{{literature-{kind}}}\n```\n\n" for kind in ("graph", "measured", "list"))
    (source / "index.md").write_text(f"# P\n\n## L\n\n{directives}```{{toctree}}\nclaims\nchapters/{NOTEBOOK}\n```\n")
    (source / "claims.md").write_text("# Claims\n\n```{claims-table}\n```\n")
    (source / "chapters" / f"{NOTEBOOK}.md").write_text("# Progressive sharpening\n\nWords.\n")
    claims = [
        CLAIM | {"id": str(i), "work": work} for i, work in enumerate(("2405.16002", "2207.14484", "2405.16002", ""))
    ]
    results = write(tmp_path / "results", claims, [FIGURE])
    told = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-E", str(source), str(out)], capture_output=True, text=True,
        timeout=PATIENCE / 1000, env=os.environ | {"EOSLIB_RESULTS": str(results), "EOSLIB_BOOK_SCALE": "quick"},
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    page = (out / "index.html").read_text(encoding="utf-8")
    entries = dict(re.findall(r'<li (?:class="lit-work" )?id="([^"]+)">(.+?)</li>', page, re.DOTALL))
    saying = {name: entry for name, entry in entries.items() if "Measured here: " in entry}
    assert set(saying) == {"song-2024-subspaces", "cohen2022adaptive"}
    assert ">2 claims</a>" in saying["song-2024-subspaces"]
    assert ">1 claim</a>" in saying["cohen2022adaptive"]
    for entry in saying.values():
        (chapter, title), (table, _) = re.findall(r'internal" href="([^"]+)">([^<]+)<', entry)
        assert title == "Progressive sharpening"
        assert (out / chapter).is_file()
        file, _, anchor = table.partition("#")
        assert f'id="{anchor}"' in (out / file).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="literature-data">(.+?)</script>', page, re.DOTALL)[1])
    assert [work["id"] for work in data["works"] if work["measured"]] == ["song-2024-subspaces"]


WORK = "author = {A. B}, title = {T}, year = {2025}, eprint = {1}, theme = {noise}, relation = {uses}, annote = {So.}"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("annote", "note", "x has no 'annote'"),
        ("author", "editor", "x has no 'author'"),
        ("eprint", "doi", "x has no 'url'"),
        ("{uses}", "{likes}", "x has an unknown theme or relation"),
        ("{So.}", "{So.}}\n@misc{x, title = {T}", "repeated bibliography entry: x"),
        ("{2025}", "{2025", "syntax error"),
    ],
)
def test_a_broken_entry_fails_the_build(extension, tmp_path, old, new, problem):
    paper = "@misc{damian2023self, author = {A. B}, title = {P}, eprint = {2}}"
    for text in (WORK, WORK.replace(old, new)):
        (tmp_path / "some.bib").write_text(f"{paper}\n@misc{{x, {text}}}\n", encoding="utf-8")
        if text == WORK:
            assert [work["label"] for work in extension.load(tmp_path / "some.bib")[1]] == ["B 2025"]
    with pytest.raises(extension.ExtensionError, match=f"some.bib: .*{problem}"):
        extension.load(tmp_path / "some.bib")


def test_the_bibliography_lists_what_is_cited_and_nothing_else(open_page, works):
    cited = [text.casefold() for text in open_page("bibliography.html").locator(".citation").all_inner_texts()]
    assert len(cited) == len(cited_in_sources())
    assert any("self-stabilization: the implicit bias" in text for text in cited)
    uncited = [work["title"] for work in works if work["id"] not in cited_in_sources()]
    assert not [title for title in uncited if any(title.casefold() in text for text in cited)]


def test_every_work_is_in_the_list_and_in_the_graph(literature, extension, works):
    page = literature()
    listed = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".lit-work")].map((item) =>
          [item.id, [item.querySelector("a").textContent, item.querySelector(".lit-by").textContent,
                     item.querySelector(".lit-told").textContent, item.querySelector("a").href]]))"""
    )
    known = {work["id"]: work for work in works}
    assert set(listed) == set(known)
    for name, (title, by, told, address) in listed.items():
        work = known[name]
        assert plain(title) == plain(work["title"])
        assert by.startswith(f"{work['authors']}. {work['where']}.")
        assert plain(work["sentence"]) in plain(told)
        assert extension.RELATIONS[work["relation"]] in told
        assert address == work["url"]
    assert set(page.evaluate("() => eosLiterature.nodes.getIds()")) == {"paper", *known}
    edges = page.evaluate("() => eosLiterature.edges.get().map((edge) => [edge.from, edge.to, edge.relation])")
    assert sorted(edges) == sorted([name, "paper", work["relation"]] for name, work in known.items())
    headings = [heading.strip("# \n") for heading in page.locator("section[id^=theme-] > h3").all_inner_texts()]
    assert headings == list(extension.THEMES.values())


def test_hover_shows_the_title(literature, works):
    page = literature()
    work = works[12]
    page.mouse.move(*on_screen(page, work["id"]))
    page.wait_for_function("document.querySelector('.vis-tooltip')?.style.visibility === 'visible'")
    assert page.locator(".vis-tooltip").inner_text() == work["title"]


def test_click_shows_the_details(literature, extension, works):
    page = literature()
    for work in (works[19], works[71]):
        page.mouse.click(*on_screen(page, work["id"]))
        page.wait_for_function(
            "(t) => document.querySelector('#literature-panel h2').textContent === t", arg=work["title"]
        )
        panel = page.locator("#literature-panel").inner_text()
        assert work["authors"] in panel
        assert work["sentence"] in panel
        assert (
            page.evaluate("(id) => eosLiterature.edges.get(id).label", work["id"])
            == extension.RELATIONS[work["relation"]]
        )
        links = page.evaluate(
            "[...document.querySelectorAll('#literature-panel a')].map((a) => a.getAttribute('href'))"
        )
        assert work["url"] in links
    assert not page.complaints.external
    assert not page.complaints.errors


def test_a_measured_work_has_a_dark_rim_and_says_where(literature):
    """As the words below the graph say; the others have the rims of their relations."""
    page = literature()
    measured = page.evaluate(
        "() => eosLiterature.data.works.filter((work) => work.measured.length).map((work) => work.id)"
    )
    rims = page.evaluate(
        "() => Object.fromEntries(eosLiterature.nodes.get().map((node) => [node.id, node.color.border]))"
    )
    ink = rims.pop("paper")
    assert {name for name, rim in rims.items() if rim == ink} == set(measured)
    assert "thick rim marks a work that a chapter of this book measures" in page.locator("#lit-help").inner_text()
    for name in measured[:1]:
        page.mouse.click(*on_screen(page, name))
        page.wait_for_selector("#literature-panel .lit-measured")
        assert "Measured here: " in page.locator(f"#{name} .lit-measured").inner_text()


def test_drag_moves_a_node(literature, works):
    page = literature()
    name = works[40]["id"]
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


def test_keyboard_goes_from_the_list_to_the_graph(literature, works):
    """A button in every entry of the list; it selects the work's node and tells its details in a live region."""
    page = literature()
    assert page.locator(".lit-work .lit-show").count() == 74
    work = works[5]
    page.focus(f"#{work['id']} .lit-show")
    page.keyboard.press("Enter")
    assert page.evaluate("() => eosLiterature.network.getSelectedNodes()") == [work["id"]]
    assert page.locator("#literature-panel[aria-live=polite] h2").inner_text() == work["title"]


def test_filter_by_relation(literature, works):
    page = literature()
    page.click("[data-relation=questions]")
    visible = page.locator(".lit-work:visible").count()
    assert visible == sum(work["relation"] == "questions" for work in works) < 74
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
