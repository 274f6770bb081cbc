"""The works around the paper: a list grouped by theme and the data of the interactive graph, from the bibliography.

Directives: ``{literature-graph}`` (the graph's place, its data and its words for readers without scripts),
``{literature-list}`` (a section for each theme) and ``{literature-measured}`` (what else of the bibliography a
chapter measures). A work is measured where a claim names its arXiv number as its ``work``. The vis-network script
comes out of the pinned package ``pyvis`` when the book is built and is never committed.
"""

from __future__ import annotations

import cmath
import itertools
import json
import math
import textwrap
from pathlib import Path

import pybtex.database
from directives import RecordDirective
from docutils import nodes
from pybtex.exceptions import PybtexError
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

PAGE = "literature"
SOURCE = "references.bib"
PAPER = "damian2023self"
SCRIPT = "vendor/vis-network/vis-network.min.js"
THEMES = {
    "mechanism": "Mechanisms of the edge",
    "sharpening": "Progressive sharpening",
    "catapult": "Catapults and spikes",
    "convergence": "Convergence with large steps",
    "noise": "Sampling noise",
    "steps": "Step sizes and optimizers",
    "flatness": "Flatness and generalization",
    "practice": "Architectures and practice",
    "beyond": "Further afield",
}
RELATIONS = {
    "extends": "extends it to another setting",
    "explains": "explains the same phenomenon",
    "questions": "questions a part of it",
    "uses": "uses it or its condition",
    "theme": "shares its theme",  # nothing more is known or claimed
}


def shown(entry: pybtex.database.Entry) -> dict:
    """Return what the page shows of a work: label of its node, title, authors, where it appeared, and its address."""
    fields, people = entry.fields, entry.persons["author"]
    names = [" ".join(each.first_names + each.middle_names + each.prelast_names + each.last_names) for each in people]
    year, arxiv = fields.get("origyear") or fields.get("year"), fields.get("eprint")
    venue = next((fields[name] for name in ("venue", "booktitle", "journal") if name in fields), None)
    return {
        "id": entry.key,
        "label": " ".join(filter(None, (people[0].last_names[-1], year))),
        "title": fields["title"],
        "authors": ", ".join(names),
        "where": "; ".join(filter(None, (year or "no year listed", venue, arxiv and f"arXiv {arxiv}"))),
        "url": f"https://arxiv.org/abs/{arxiv}" if arxiv else fields["url"],
        "eprint": arxiv or "",
    }


def load(path: Path) -> tuple[dict, list[dict], list[dict]]:
    """Return what the page shows of the paper, of each entry with a theme, and of each with an arXiv number and none.

    The order is that of the bibliography.

    Raises:
        ExtensionError: on a file that does not parse, a key that occurs twice, a missing field, or an unknown theme or
            relation.
    """
    try:
        entries = pybtex.database.parse_file(str(path), "bibtex", encoding="utf-8").entries
    except PybtexError as error:
        raise ExtensionError(f"{path.name}: {error}") from None
    works, others = [], []
    for key, entry in entries.items():
        try:
            if theme := entry.fields.get("theme"):
                own = {"relation": entry.fields["relation"], "sentence": entry.fields["annote"]}
                works.append(shown(entry) | {"theme": theme} | own)
            elif key != PAPER and "eprint" in entry.fields:
                others.append(shown(entry))
        except KeyError as missing:
            raise ExtensionError(f"{path.name}: {key} has no {missing}") from None
        if theme and (theme not in THEMES or own["relation"] not in RELATIONS):
            raise ExtensionError(f"{path.name}: {key} has an unknown theme or relation")
    return shown(entries[PAPER]) | {"id": "paper", "label": "Self-Stabilization"}, works, others


def measured(claims: list[dict]) -> dict[str, list[dict]]:
    """Return, by a work's arXiv number, the chapters whose claims name it: notebook, number of claims, their place."""
    found: dict[str, list[dict]] = {}
    named = sorted((claim["work"], claim["notebook"]) for claim in claims if claim.get("work"))
    for (work, notebook), each in itertools.groupby(named):
        place = {"page": f"chapters/{notebook}.html", "claims": f"claims.html#{nodes.make_id(f'claims-{notebook}')}"}
        found.setdefault(work, []).append({"notebook": notebook, "count": len(list(each))} | place)
    return found


def in_lines(name: str) -> list[str]:
    """Return a name of more than twenty letters broken near its middle, any other whole."""
    return textwrap.wrap(name, 20 if len(name) <= 20 else int(0.6 * len(name)))


def spread(discs: list[dict], room: float = 42.0) -> None:
    """Push the discs apart until none overlaps another or the paper in the middle; ``room`` is for their names."""
    center = {"at": 0j, "radius": 70.0}
    for _ in range(500):
        moved = False
        for i, one in enumerate(discs):
            for other in [*discs[:i], center]:
                gap = one["at"] - other["at"]
                distance = abs(gap) or 1.0
                short = one["radius"] + other["radius"] + room - distance
                if short > 1e-6:
                    moved, push = True, short * gap / distance
                    one["at"] += push if other is center else push / 2
                    other["at"] -= 0 if other is center else push / 2
        if not moved:
            return


def graph(paper: dict, works: list[dict]) -> dict:
    """Return what the page's script reads: the paper, the works and the themes' discs, in the graph's own units.

    Each theme is a disc on an oval around the paper, its works lie on a sunflower inside.
    """
    groups = {theme: [work for work in works if work["theme"] == theme] for theme in THEMES}
    discs = [{"id": theme, "radius": 36 * math.sqrt(len(group)) + 14} for theme, group in groups.items()]
    total, before = sum(disc["radius"] for disc in discs), 0.0
    for disc in discs:
        turn = cmath.rect(1, 2 * math.pi * (before + disc["radius"] / 2) / total - math.pi / 2)
        before += disc["radius"]
        disc["at"] = complex(390 * turn.real, 330 * turn.imag)
    spread(discs)
    places = {}
    for disc in discs:
        group = groups[disc["id"]]
        for i, work in enumerate(group):
            distance = (disc["radius"] - 26) * math.sqrt((i + 0.5) / len(group))
            places[work["id"]] = disc["at"] + cmath.rect(distance, i * math.pi * (3 - math.sqrt(5)))

    def at(place: complex) -> dict:
        return {"x": round(place.real, 1), "y": round(place.imag, 1)}

    return {
        "paper": paper,
        "relations": RELATIONS,
        "works": [work | at(places[work["id"]]) | {"theme": THEMES[work["theme"]]} for work in works],
        "themes": [
            {"lines": in_lines(THEMES[disc["id"]]), "radius": round(disc["radius"], 1)} | at(disc["at"])
            for disc in discs
        ],
    }


class Literature(RecordDirective):
    """The graph's place on the page with its data as inert JSON, a section for each theme, and the measured others."""

    def context(self) -> dict:
        self.env.note_dependency(SOURCE)
        paper, *lists = self.config.literature
        chapters = measured(self.found.claims)
        for work in itertools.chain(*chapters.values()):
            work["title"] = self.chapter_title(work["notebook"])
        works, others = ([work | {"measured": chapters.get(work["eprint"], [])} for work in each] for each in lists)
        data = json.dumps(graph(paper, works), ensure_ascii=False).replace("<", "\\u003c")
        others = [work for work in others if work["measured"]]
        return {"themes": THEMES, "relations": RELATIONS, "works": works, "others": others, "data": data}


def prepare(app: Sphinx, config) -> None:
    source = Path(app.srcdir)
    config.literature = load(source / SOURCE)


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """The graph's scripts and style on its own page, and on no other."""
    if pagename == PAGE:
        app.add_css_file("literature.css")
        for script in (SCRIPT, "widgets.js", "literature.js"):
            app.add_js_file(script, loading_method="defer")


def setup(app: Sphinx) -> dict:
    app.add_config_value("literature", None, "env", types=(tuple,))
    app.add_directive("literature-graph", Literature)
    app.add_directive("literature-list", Literature)
    app.add_directive("literature-measured", Literature)
    app.connect("config-inited", prepare)
    app.connect("html-page-context", add_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
