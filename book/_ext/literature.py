"""The works around the paper: a list grouped by theme and the data of the interactive graph, both from one file.

Directives: ``{literature-graph}`` (the graph's place, its data and its words for readers without scripts) and
``{literature-list}`` (a section for each theme).  The vis-network script comes out of the pinned package ``pyvis`` when
the book is built and is never committed.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from html import escape
from importlib import resources
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

PAGE = "literature"
SOURCE = "literature.yml"
SCRIPT = "vendor/vis-network/vis-network.min.js"


def take_vis_network(assets: Path) -> None:
    """Copy the newest vis-network script that ``pyvis`` carries to ``_assets/vendor/vis-network``.

    Raises:
        ExtensionError: where the package or the file is absent.
    """
    try:
        folder = Path(str(resources.files("pyvis"))) / "lib"
    except ModuleNotFoundError:
        raise ExtensionError(
            "the package pyvis, which carries vis-network, is not installed; see CONTRIBUTING"
        ) from None
    found = sorted(
        folder.glob("vis-*/vis-network.min.js"),
        key=lambda path: tuple(int(part) for part in re.findall(r"\d+", path.parent.name)),
    )
    if not found:
        raise ExtensionError(f"no vis-network.min.js under {folder.name}/ of the installed pyvis")
    target = assets / SCRIPT
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file() or target.stat().st_size != found[-1].stat().st_size:
        shutil.copyfile(found[-1], target)


def load(path: Path) -> dict:
    """The works, checked.

    Raises:
        ExtensionError: on a missing field, an unknown theme or relation, or an id that occurs twice.
    """
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    themes, relations = {theme["id"] for theme in data["themes"]}, set(data["relations"])
    seen: set[str] = set()
    for work in data["works"]:
        name = work.get("id", "a work without id")
        for field in ("id", "title", "authors", "theme", "relation", "sentence"):
            if not work.get(field):
                raise ExtensionError(f"{path.name}: {name} has no {field}")
        if work["theme"] not in themes or work["relation"] not in relations:
            raise ExtensionError(f"{path.name}: {name} has an unknown theme or relation")
        if ("arxiv" in work) == ("url" in work):
            raise ExtensionError(f"{path.name}: {name} needs either arxiv or url")
        if name in seen:
            raise ExtensionError(f"{path.name}: the id {name} occurs twice")
        seen.add(name)
    return data


def address(work: dict) -> str:
    return f"https://arxiv.org/abs/{work['arxiv']}" if "arxiv" in work else work["url"]


def where(work: dict) -> str:
    """Year, venue and number of a work, as far as they are known."""
    number = f"arXiv {work['arxiv']}" if "arxiv" in work else ""
    return "; ".join(str(part) for part in (work.get("year", "no year listed"), work.get("venue"), number) if part)


def short_name(work: dict) -> str:
    """First author's family name and year, for the label of a node."""
    return " ".join(part for part in (work["authors"][0].split()[-1], str(work.get("year", ""))) if part)


def spread(discs: list[dict], room: float = 42.0) -> None:
    """Push the discs apart until none overlaps another or the paper in the middle; ``room`` is for their names."""
    centre = {"x": 0.0, "y": 0.0, "radius": 70.0}
    for _ in range(500):
        moved = False
        for i, one in enumerate(discs):
            for other in [*discs[:i], centre]:
                dx, dy = one["x"] - other["x"], one["y"] - other["y"]
                distance = math.hypot(dx, dy) or 1.0
                short = one["radius"] + other["radius"] + room - distance
                if short > 1e-6:
                    moved = True
                    share = 1.0 if other is centre else 0.5
                    one["x"] += share * short * dx / distance
                    one["y"] += share * short * dy / distance
                    if other is not centre:
                        other["x"] -= share * short * dx / distance
                        other["y"] -= share * short * dy / distance
        if not moved:
            return


def layout(data: dict) -> tuple[dict[str, tuple[float, float]], list[dict]]:
    """Where works and themes go: each theme a disc on an oval around the paper, its works on a sunflower inside.

    Returns the position of each work by id, and the discs (theme, name, x, y, radius), in the graph's own units.
    """
    groups = [(theme, [w for w in data["works"] if w["theme"] == theme["id"]]) for theme in data["themes"]]
    radii = [36 * math.sqrt(len(works)) + 14 for _, works in groups]
    discs, at = [], 0.0
    for (theme, _), radius in zip(groups, radii, strict=True):
        angle = 2 * math.pi * (at + radius / 2) / sum(radii) - math.pi / 2
        at += radius
        x, y = 390 * math.cos(angle), 330 * math.sin(angle)
        discs.append({"id": theme["id"], "name": theme["name"], "x": x, "y": y, "radius": radius})
    spread(discs)
    places = {}
    for (_, works), disc in zip(groups, discs, strict=True):
        for i, work in enumerate(works):
            distance = (disc["radius"] - 26) * math.sqrt((i + 0.5) / len(works))
            turn = i * math.pi * (3 - math.sqrt(5))
            places[work["id"]] = (disc["x"] + distance * math.cos(turn), disc["y"] + distance * math.sin(turn))
    return places, discs


def graph(data: dict) -> dict:
    """What the page's script reads: nodes (the paper and the works), edges (work to paper) and the themes' discs."""
    places, discs = layout(data)
    themes = {theme["id"]: theme["name"] for theme in data["themes"]}

    def node(work: dict) -> dict:
        return {
            "id": work["id"],
            "label": short_name(work),
            "title": work["title"],
            "authors": ", ".join(work["authors"]),
            "where": where(work),
            "url": address(work),
        }

    works = [
        node(work)
        | {
            "x": round(places[work["id"]][0], 1),
            "y": round(places[work["id"]][1], 1),
            "theme": themes[work["theme"]],
            "relation": work["relation"],
            "sentence": work["sentence"],
        }
        for work in data["works"]
    ]
    return {
        "paper": node(data["paper"]) | {"label": "Self-Stabilization"},
        "relations": data["relations"],
        "works": works,
        "themes": [{key: round(v, 1) if isinstance(v, float) else v for key, v in disc.items()} for disc in discs],
    }


class GraphDirective(SphinxDirective):
    """The graph's place on the page, with its data as inert JSON."""

    def run(self) -> list[nodes.Node]:
        data = self.config.literature_data
        text = json.dumps(graph(data), ensure_ascii=False).replace("<", "\\u003c")
        words = "The graph needs scripts, which are switched off here. The list below holds all that it shows."
        return [
            nodes.raw(
                "",
                f'<div id="literature" class="lit wide"><noscript><p>{escape(words)}</p></noscript></div>'
                f'<script type="application/json" id="literature-data">{text}</script>',
                format="html",
            )
        ]


class ListDirective(SphinxDirective):
    """A section for each theme, a list item for each work."""

    def item(self, data: dict, work: dict) -> nodes.list_item:
        link = nodes.reference("", work["title"], refuri=address(work), internal=False)
        head = nodes.paragraph("", "", link, classes=["lit-title"])
        by = nodes.paragraph("", f"{', '.join(work['authors'])}. {where(work)}.", classes=["lit-by"])
        relation = nodes.inline(
            "", data["relations"][work["relation"]], classes=["lit-relation", f"lit-{work['relation']}"]
        )
        told = nodes.paragraph("", "", relation, nodes.Text(" "), nodes.Text(work["sentence"]), classes=["lit-told"])
        return nodes.list_item("", head, by, told, ids=[work["id"]], classes=["lit-work"])

    def run(self) -> list[nodes.Node]:
        data = self.config.literature_data
        sections = []
        for theme in data["themes"]:
            works = [work for work in data["works"] if work["theme"] == theme["id"]]
            section = nodes.section("", nodes.title("", theme["name"]), ids=[f"theme-{theme['id']}"])
            section += nodes.bullet_list("", *(self.item(data, work) for work in works), classes=["lit-list"])
            sections.append(section)
        self.env.note_dependency(SOURCE)
        return sections


def prepare(app: Sphinx, config) -> None:
    source = Path(app.srcdir)
    take_vis_network(source / "_assets")
    config.literature_data = load(source / SOURCE)


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The graph's scripts and style on its own page, and on no other."""
    if pagename == PAGE:
        app.add_css_file("literature.css")
        app.add_js_file(SCRIPT, loading_method="defer")
        app.add_js_file("literature.js", loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_config_value("literature_data", None, "env", types=(dict,))
    app.add_directive("literature-graph", GraphDirective)
    app.add_directive("literature-list", ListDirective)
    app.connect("config-inited", prepare)
    app.connect("html-page-context", add_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
