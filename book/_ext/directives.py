"""Directives that turn records into pages: the story figure, the claims table, the gallery, the status page."""

from __future__ import annotations

import datetime
import hashlib
import html
import json
import os
from pathlib import Path

import records
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective, SphinxRole


def badge(verdict: str) -> nodes.inline:
    """A verdict, told by its word and its sign as well as by its colour."""
    good = verdict == "holds"
    kind = "verdict-holds" if good else "verdict-fails"
    return nodes.inline("", f"{'✓' if good else '✗'} {verdict}", classes=["verdict", kind])


def by_notebook(entries: list[dict]) -> dict[str, list[dict]]:
    """Entries grouped by notebook, in the order of the notebooks' names, which is that of the argument."""
    groups: dict[str, list[dict]] = {}
    for entry in sorted(entries, key=lambda entry: entry["notebook"]):
        groups.setdefault(entry["notebook"], []).append(entry)
    return groups


class RecordDirective(SphinxDirective):
    """A directive that reads the build's records; recorded sentences are parsed as MyST."""

    has_content = False

    @property
    def found(self) -> records.Records:
        return self.config.eosbook_records

    def paragraph(self, *parts: str | nodes.Node, classes: tuple[str, ...] = ()) -> nodes.paragraph:
        """A paragraph of MyST strings and of ready nodes."""
        paragraph = nodes.paragraph(classes=list(classes))
        for part in parts:
            if isinstance(part, str):
                parsed, messages = self.state.inline_text(part, self.lineno)
                paragraph += [*parsed, *messages]
            else:
                paragraph += part
        return paragraph

    def table(
        self,
        header: list[str],
        rows: list[list[list[nodes.Node]]],
        widths: list[int],
        name: str,
    ) -> nodes.container:
        """A table inside a box that scrolls where the page is too narrow for it."""
        group = nodes.tgroup(cols=len(header))
        group += [nodes.colspec(colwidth=width) for width in widths]
        head, body = nodes.thead(), nodes.tbody()
        head += nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in header))
        body += [nodes.row("", *(nodes.entry("", *cell) for cell in row)) for row in rows]
        group += [head, body]
        return nodes.container("", nodes.table("", group, classes=[name]), classes=["table-box"])

    def section(self, title: str, identifier: str, *content: nodes.Node) -> nodes.section:
        section = nodes.section("", nodes.title("", title), *content, ids=[nodes.make_id(identifier)])
        self.state.document.note_explicit_target(section, section)
        return section

    def chapter_file(self, notebook: str) -> Path:
        return Path(self.env.srcdir) / "chapters" / f"{notebook}.ipynb"

    def chapter_cells(self, notebook: str) -> dict:
        try:
            return json.loads(self.chapter_file(notebook).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"cells": [], "metadata": {}}

    def chapter_title(self, notebook: str) -> str:
        """First heading of a chapter; the notebook's name in words where the chapter is not in this build."""
        for cell in self.chapter_cells(notebook)["cells"]:
            for line in "".join(cell["source"]).splitlines():
                if cell["cell_type"] == "markdown" and line.startswith("# "):
                    return line[2:].strip()
        return notebook.partition("_")[2].replace("_", " ").capitalize()

    def chapter_link(self, notebook: str, text: str | None = None) -> nodes.Node:
        """Link to a chapter; a record without a chapter in the book is a warning, and so fails the build."""
        return addnodes.pending_xref(
            "",
            nodes.inline("", text or notebook),
            refdomain="std",
            reftype="doc",
            reftarget=f"/chapters/{notebook}",
            refdoc=self.env.docname,
            refexplicit=text is not None,
            refwarn=True,
        )

    def figure_link(self, figure: dict) -> nodes.Node:
        """Link to a figure's place in its chapter, where its notebook, data and code are linked too."""
        return addnodes.pending_xref(
            "",
            nodes.inline("", "In its chapter"),
            refdomain="std",
            reftype="ref",
            reftarget=f"fig-{figure['id']}".lower(),
            refdoc=self.env.docname,
            refexplicit=True,
            refwarn=True,
        )

    def image(self, figure: dict, lazy: bool) -> nodes.image:
        source = f"/_generated/figures/{figure['notebook']}/{figure['id']}.png"
        return nodes.image(uri=source, alt=figure["alt"], loading="lazy" if lazy else "eager")

    def download(self, figure: dict, kind: str) -> nodes.Node:
        target = f"/_generated/figures/{figure['notebook']}/{figure['id']}.{kind}"
        text = nodes.inline("", kind.upper())
        return addnodes.download_reference("", "", text, reftarget=target, refdoc=self.env.docname, reftype="download")


class ClaimsTable(RecordDirective):
    """Every claim: its sentence, what was predicted, what was measured, here and in recorded runs, and the verdicts."""

    def run(self) -> list[nodes.Node]:
        header = ["Claim", "Predicted", f"Measured ({self.found.scale})", "Recorded (paper)"]
        sections = []
        for notebook, claims in by_notebook(self.found.claims).items():
            rows = [[self.told(c), self.predicted(c), self.measured(c), self.recorded(c)] for c in claims]
            chapter = self.paragraph("Argued in ", self.chapter_link(notebook), ".", classes=("chapter-of",))
            table = self.table(header, rows, [50, 14, 18, 18], "claims")
            sections.append(self.section(self.chapter_title(notebook), f"claims-{notebook}", chapter, table))
        return sections

    def told(self, claim: dict) -> list[nodes.Node]:
        why = str(claim["reason"]).rstrip(".")
        quantity = claim["quantity"].rstrip(".")
        measure = f"{quantity[:1].upper()}{quantity[1:]}. Tolerance {records.show(claim['tolerance'], 2)}: {why}."
        paper = (
            [self.paragraph(f"The paper: {claim['paper']}", classes=("claim-reason",))] if claim.get("paper") else []
        )
        return [
            self.paragraph(claim["sentence"], classes=("claim-sentence",)),
            *paper,
            self.paragraph(measure, classes=("claim-reason",)),
        ]

    def predicted(self, claim: dict) -> list[nodes.Node]:
        relation = {"at most": "≤ ", "at least": "≥ "}.get(claim.get("relation"), "")
        return [nodes.paragraph("", relation + records.show(claim["predicted"]), classes=["number"])]

    def measured(self, claim: dict) -> list[nodes.Node]:
        number = nodes.paragraph("", records.with_spread(claim), classes=["number"])
        return [number, nodes.paragraph("", "", badge(claim["verdict"]))]

    def recorded(self, claim: dict) -> list[nodes.Node]:
        """The same for the recorded runs, with their own prediction where it is another."""
        if "recorded" not in claim:
            return [nodes.paragraph("", "–")]
        found = {"relation": claim.get("relation")} | claim["recorded"]
        predicted = self.paragraph("predicted ", *self.predicted(found)[0].children, classes=("claim-reason",))
        other = found["predicted"] != claim["predicted"] or found["tolerance"] != claim["tolerance"]
        if other:
            predicted += nodes.Text(f", tolerance {records.show(found['tolerance'], 2)}")
        return [*self.measured(found), *([predicted] if other else [])]


class FigureGallery(RecordDirective):
    """Every figure of the shown scale as a picture with its caption, its chapter, its files and its provenance."""

    def run(self) -> list[nodes.Node]:
        return [
            self.section(
                self.chapter_title(notebook),
                f"figures-{notebook}",
                nodes.container("", *(self.card(figure) for figure in figures), classes=["gallery"]),
            )
            for notebook, figures in by_notebook(self.found.figures).items()
        ]

    def card(self, figure: dict) -> nodes.container:
        links = self.paragraph(
            self.figure_link(figure),
            *(part for kind in records.FIGURE_FILES for part in (" · ", self.download(figure, kind))),
            classes=("figure-links",),
        )
        picture = nodes.container("", self.image(figure, lazy=True), classes=["figure-card"])
        caption = self.paragraph(figure["caption"], classes=("figure-caption",))
        told = nodes.paragraph("", provenance_line(figure["provenance"]), classes=["provenance"])
        return nodes.container("", picture, caption, links, told, classes=["gallery-item"])


class StoryFigure(RecordDirective):
    """The first recorded figure of the argument ``notebook/id notebook/id …``, with its caption."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        wanted = self.arguments[0].split()
        figures = {f"{figure['notebook']}/{figure['id']}": figure for figure in self.found.figures}
        name = next((name for name in wanted if name in figures), None)
        if name is None:
            raise self.error(
                f"none of the figures {', '.join(wanted)} is recorded; recorded: {', '.join(figures) or 'none'}"
            )
        figure = figures[name]
        picture = nodes.container("", self.image(figure, lazy=False), classes=["figure-card"])
        caption = nodes.paragraph("", plain(figure["caption"]), classes=["figure-caption"])
        # Cut at one line where the page is to fit the first screen: the whole is its title.
        line = html.escape(provenance_line(figure["provenance"]))
        told = nodes.raw("", f'<p class="provenance" title="{line}">{line}</p>', format="html")
        return [nodes.container("", picture, caption, told, classes=["story"])]


def plain(text: str) -> str:
    r"""A caption without formulas: the first page is quick because it loads no MathJax.

    >>> plain("It meets $2/\\eta$ (dashed), where $S(\\theta_t)$ stays.")
    'It meets 2/η (dashed), where S(θₜ) stays.'
    """
    signs = {
        r"\eta": "η",
        r"\theta": "θ",
        r"\dagger": "†",
        r"\delta": "δ",
        r"\alpha": "α",
        r"\beta": "β",
        r"\nabla": "∇",
    }
    signs |= {
        r"\cdot": "·",
        r"\le": "≤",
        r"\ge": "≥",
        r"\approx": "≈",
        r"\lambda": "λ",
        r"\epsilon": "ε",
        r"\varepsilon": "ε",
    }
    signs |= {
        "_t": "ₜ",
        "_0": "₀",
        "_1": "₁",
        "_2": "₂",
        "^2": "²",
        "^†": "†",
        "$": "",
        r"\,": " ",
        "{": "",
        "}": "",
    }
    for sign in sorted(signs, key=len, reverse=True):
        text = text.replace(sign, signs[sign])
    return text.replace("**", "").replace("*", "").replace("\\", "")


def provenance_line(provenance: dict) -> str:
    """Scale, seeds, device, computing time and commit of a figure, in one line."""
    seeds = provenance["seed"] if isinstance(provenance["seed"], list) else [provenance["seed"]]
    threads = provenance["threads"]
    parts = [
        f"{provenance['scale']} scale",
        f"seed {', '.join(map(str, seeds))}",
        f"{provenance['device']}, {threads} thread{'' if str(threads) == '1' else 's'}",
        f"{seconds(float(provenance['seconds']))} of computing",
        f"commit {str(provenance['commit'])[:9]}",
    ]
    return " · ".join(parts)


def seconds(value: float) -> str:
    """A duration in words.

    >>> seconds(0.42), seconds(41.4), seconds(125.0), seconds(7500)
    ('0.4 s', '41 s', '2 min 5 s', '2 h 5 min')
    """
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class StatusReport(RecordDirective):
    """How the shown results came about: time per notebook, runs, hardware, versions, digest of the lock, and when."""

    def run(self) -> list[nodes.Node]:
        notebooks = sorted({entry["notebook"] for entry in (*self.found.claims, *self.found.figures)})
        return [
            self.section("Notebooks", "status-notebooks", self.notebooks(notebooks)),
            self.section("Machine, source and versions", "status-machine", self.machine()),
            self.section("Runs recorded at paper scale", "status-recorded", self.recorded()),
        ]

    def recorded(self) -> nodes.Node:
        """Every recorded run with its size, how long one direction told the whole story, its time and its machine."""
        from eoslib import results, settings  # here alone: they take seconds to import

        rows, runs = [], results.recordings()
        if not runs:
            return nodes.paragraph("", "None is here.")
        for run in runs:
            older = ", older code" if run.attrs["library_digest"] != results.library_digest() else ""
            setting, until = json.loads(run.attrs["setting"]), run.attrs["single_direction_until"]
            threads = run.attrs["threads"]
            network, data, criterion = (
                settings.WORDS.get(setting[field], setting[field]) for field in ("model", "dataset", "criterion")
            )
            cells = (
                f"{network}, width {setting['width']}, {data}, {criterion}",
                f"{setting['learning_rate']:g}",
                f"{setting['n']:,}",
                f"{run.attrs['instability_step']:,} + {run.sizes.get('t', 0):,}",
                f"step {until}" if until >= 0 else "never" if "eigenvalues" in run else "not measured",
                seconds(float(run.attrs["seconds"])),
                f"{run.attrs['device']}, {threads} thread{'' if threads == 1 else 's'}, {run.attrs['date']}{older}",
            )
            rows.append([[nodes.paragraph("", text)] for text in cells])
        spent = seconds(records.recorded_seconds(self.found.folder.parent))
        rows.append([[nodes.paragraph("", text)] for text in ("All of them", "", "", "", "", spent, "")])
        header = ["Network", "η", "Samples", "Steps to the edge + at it", "λ₂ at 1.9/η", "Time", "Machine, date, code"]
        return self.table(header, rows, [26, 6, 9, 15, 10, 10, 24], "status")

    def notebooks(self, names: list[str]) -> nodes.Node:
        rows = []
        for name in names:
            figures = [figure for figure in self.found.figures if figure["notebook"] == name]
            claims = [claim for claim in self.found.claims if claim["notebook"] == name]
            dates = sorted(date for figure in figures for date in figure["provenance"]["date"].split(", "))
            numbers = (
                self.spent(name),
                max((figure["provenance"]["seconds"] for figure in figures), default=None),
                len(figures),
                f"{sum(map(records.holds, claims))} of {len(claims)}",
            )
            told = [seconds(number) if isinstance(number, float) else records.show(number) for number in numbers]
            rows.append(
                [
                    [self.paragraph(self.chapter_link(name))],
                    *([nodes.paragraph("", text, classes=["number"])] for text in told),
                    [nodes.paragraph("", dates[-1] if dates else "–")],
                ]
            )
        header = ["Chapter", "Notebook", "Its runs", "Figures", "Claims that hold", "Computed"]
        return self.table(header, rows, [32, 12, 12, 10, 14, 20], "status")

    def spent(self, notebook: str) -> float | None:
        """Seconds that a notebook took, as its record says."""
        try:
            record = json.loads((self.found.folder / "records" / f"{notebook}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return float(record["seconds"])

    def machine(self) -> nodes.Node:
        lock = records.ROOT / "requirements.lock"
        made = os.environ.get("SOURCE_DATE_EPOCH")
        when = datetime.datetime.fromtimestamp(int(made), datetime.UTC) if made else datetime.datetime.now(datetime.UTC)
        names = {
            "device": "Device",
            "threads": "Threads",
            "seed": "Seeds",
            "commit": "Commit",
            "library_digest": "Digest of the numerical source",
            "data_hash": "Digest of the data",
            "versions": "Versions",
        }
        facts = {"Scale shown": self.found.scale}
        for key, title in names.items():
            told = [told_value(figure["provenance"][key]) for figure in self.found.figures]
            # A figure made of several runs tells their values one after another.
            facts[title] = ", ".join(dict.fromkeys(part for text in told for part in text.split(", "))) or "–"
        facts["Digest of the lock"] = hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.is_file() else "absent"
        facts["Book built"] = f"{when:%Y-%m-%d %H:%M} UTC"
        rows = [[[nodes.paragraph("", title)], [nodes.paragraph("", told)]] for title, told in facts.items()]
        return self.table(["What", "Value"], rows, [28, 72], "status")


class ChapterRole(SphinxRole):
    """The role ``chapter``: link to a chapter and how its claims fare, or plain words where the book lacks it."""

    def run(self):
        document = f"chapters/{self.text}"
        if document not in self.env.found_docs:
            title = self.text.partition("_")[2].replace("_", " ")
            return [nodes.inline("", f"{title} (not in this build)", classes=["absent"])], []
        attributes = {
            "refdomain": "std",
            "reftype": "doc",
            "refexplicit": False,
            "refwarn": True,
            "refdoc": self.env.docname,
        }
        link = addnodes.pending_xref("", nodes.inline("", self.text), reftarget=f"/{document}", **attributes)
        claims = [claim for claim in self.config.eosbook_records.claims if claim["notebook"] == self.text]
        fare = f" ({sum(map(records.holds, claims))} of {len(claims)} claims hold)" if claims else ""
        return [link, nodes.Text(fare)], []


class SourceRole(SphinxRole):
    """The role ``source``: link from ``module.name`` to the line of the library's source where it is defined."""

    def run(self):
        module, _, name = self.text.partition(".")
        try:
            tags = ModuleAnalyzer.for_module(f"eoslib.{module}").find_tags()
            line = tags[name][1]
        except (PycodeError, KeyError):
            told = self.inliner.reporter.error(f"eoslib has no {self.text!r} whose source could be shown")
            return [nodes.problematic(self.rawtext, self.rawtext)], [told]
        up = "../" * self.env.docname.count("/")
        listing = f"{up}_modules/eoslib/{module}.html#{name.partition('.')[0]}"  # members are listed with their class
        words = [nodes.literal("", self.text), nodes.Text(f" (line {line})")]
        return [nodes.reference("", "", *words, refuri=listing, internal=True, classes=["source"])], []


def told_value(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {told_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(told_value, value))
    return records.show(value)


def setup(app: Sphinx) -> None:
    app.add_role("chapter", ChapterRole())
    app.add_role("source", SourceRole())
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("figure-gallery", FigureGallery)
    app.add_directive("story-figure", StoryFigure)
    app.add_directive("status-report", StatusReport)
