"""Directives that turn records into pages (claims, gallery, story figure, status, mutants), and two roles for prose."""

from __future__ import annotations

import collections
import datetime
import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from docutils import nodes
from generated import Generated
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxRole

from selfstab import settings, source
from selfstab.records import store
from selfstab.records.claims import holds
from selfstab.records.paths import ROOT, recorded_root
from selfstab.records.words import as_text, duration, plural


class RecordDirective(Generated):
    """What a template makes of the build's records: the claims table and the gallery as they are."""

    @property
    def found(self) -> store.Records:
        return self.config.eosbook_records

    def context(self) -> dict:
        return {"records": self.found, "chapter_title": self.chapter_title}

    def chapter_title(self, notebook: str) -> str:
        """First heading of a chapter; the notebook's name in words where the chapter is not in this build."""
        file = Path(self.env.srcdir) / "chapters" / f"{notebook}.ipynb"
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"] if file.is_file() else []
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        name = notebook.partition("_")[2].replace("_", " ").capitalize()
        return next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), name)


class StoryFigure(RecordDirective):
    """The first recorded figure of the argument ``notebook/id notebook/id …``, with its caption."""

    required_arguments = 1
    final_argument_whitespace = True

    def context(self) -> dict:
        wanted = self.arguments[0].split()
        figures = {f"{figure['notebook']}/{figure['id']}": figure for figure in self.found.figures}
        name = next((name for name in wanted if name in figures), None)
        if name is None:
            known = ", ".join(figures) or "none"
            raise self.error(f"none of the figures {', '.join(wanted)} is recorded; recorded: {known}")
        return {"name": name, "figure": figures[name], "caption": plain(figures[name]["caption"])}


#: What stands for a formula's signs in plain text.
PLAIN = {
    r"\eta": "η", r"\theta": "θ", r"\dagger": "†", r"\delta": "δ", r"\alpha": "α", r"\beta": "β", r"\nabla": "∇",
    r"\lambda": "λ", r"\epsilon": "ε", r"\varepsilon": "ε", r"\cdot": "·", r"\le": "≤", r"\ge": "≥", r"\approx": "≈",
    "_t": "ₜ", "_0": "₀", "_1": "₁", "_2": "₂", "^2": "²", "^†": "†", r"\,": " ", **dict.fromkeys("${}*\\", ""),
}  # fmt: skip


def plain(text: str) -> str:
    r"""A caption without formulas: the first page is quick because it loads no MathJax.

    >>> plain("It meets $2/\\eta$ (dashed), where $S(\\theta_t)$ stays.")
    'It meets 2/η (dashed), where S(θₜ) stays.'
    """
    for sign in sorted(PLAIN, key=len, reverse=True):
        text = text.replace(sign, PLAIN[sign])
    return text


#: What the status page names of the figures' provenance.
FACTS = {
    "device": "Device", "threads": "Threads", "seed": "Seeds", "commit": "Commit",
    "library_digest": "Digest of the numerical source", "data_hash": "Digest of the data", "versions": "Versions",
}  # fmt: skip


class StatusReport(RecordDirective):
    """How the shown results came about: time per notebook, runs, hardware, versions, digest of the lock, and when."""

    def context(self) -> dict:
        names = sorted({entry["notebook"] for entry in (*self.found.claims, *self.found.figures)})
        notebooks = [self.notebook(name) for name in names]
        return {"notebooks": notebooks, "facts": self.facts(), "recorded": self.recorded(), "searched": self.searched()}

    def notebook(self, name: str) -> tuple[str, list, str]:
        """Return a notebook's name, its numbers in words, and when it was computed last."""
        figures = [figure for figure in self.found.figures if figure["notebook"] == name]
        claims = [claim for claim in self.found.claims if claim["notebook"] == name]
        record = self.found.folder / "records" / f"{name}.json"
        seconds = [
            json.loads(record.read_text(encoding="utf-8"))["seconds"] if record.is_file() else None,
            max((figure["provenance"]["seconds"] for figure in figures), default=None),
        ]
        times = [None if value is None else duration(value) for value in seconds]
        dates = [date for figure in figures for date in figure["provenance"]["date"].split(", ")]
        numbers = [*times, len(figures), f"{sum(map(holds, claims))} of {len(claims)}"]
        return name, numbers, max(dates, default="–")

    def facts(self) -> dict[str, str]:
        """Return machine, source and versions; each value is named once, though many figures share it."""
        lock, epoch = ROOT / "requirements.lock", os.environ.get("SOURCE_DATE_EPOCH") or time.time()
        when = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
        facts = {"Scale shown": self.found.scale}
        for key, title in FACTS.items():
            # A figure drawn from several runs names their values one after another.
            values = (as_text(figure["provenance"][key]).split(", ") for figure in self.found.figures)
            facts[title] = ", ".join(dict.fromkeys(part for parts in values for part in parts)) or "–"
        facts["Digest of the lock"] = hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.is_file() else "absent"
        return facts | {"Book built": f"{when:%Y-%m-%d %H:%M} UTC"}

    def recorded(self) -> dict:
        """Return a row for every recorded experiment, its seeds together, and what there is of today's code."""
        from selfstab.runs import files  # here alone: it takes seconds to import

        runs = files.recordings(seed=None)
        groups = itertools.groupby(
            runs, lambda run: (json.loads(run.attrs["setting"])["name"], run.attrs["learning_rate"])
        )
        current = sum(map(files.of_today, runs))
        spent = duration(store.recorded_seconds(recorded_root()))
        rows = [recorded_row(list(group)) for _, group in groups]
        return {
            "rows": rows,
            "runs": len(runs),
            "current": current,
            "former": any(run.attrs["library_digest"] == files.FORMER and files.of_today(run) for run in runs),
            "pilots": files.pilots(run for run in runs if run.sizes.get("t")),
            "spent": spent,
        }

    def searched(self) -> list[dict]:
        """Return what ``benchmarks/search.py`` found: where the residual network meets the edge."""
        found = ROOT / "benchmarks" / "search.json"
        return json.loads(found.read_text(encoding="utf-8")) if found.is_file() else []


def from_to(values: Iterable[float], form: str = ",.0f") -> str:
    """Return numbers in words: one if they are the same as printed, else the smallest and the largest."""
    values = list(values)
    return " to ".join(dict.fromkeys(f"{each:{form}}" for each in (min(values), max(values))))


def recorded_row(runs: list) -> list[str]:
    """Return the cells of a row on recorded runs that differ in their seeds; some may never have met the edge."""
    from selfstab.runs import files, quantities  # here alone: it takes seconds to import

    every, runs = runs, [run for run in runs if run.sizes.get("t")] or runs
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else f", seed {runs[0].attrs['seed']}" * bool(runs[0].attrs["seed"])
    if not any(run.sizes.get("t") for run in runs):
        seeds += " (never met the edge)"
    elif len(runs) < len(every):
        seeds += f" ({len(every) - len(runs)} more never met the edge)"
    setting = json.loads(runs[0].attrs["setting"])
    network, data, criterion = (
        settings.WORDS.get(setting[field], setting[field]) for field in ("model", "dataset", "criterion")
    )
    lasted, pilots = list(map(quantities.lasted, runs)), files.pilots(runs)
    ends = [int(run.attrs.get("single_direction_until", -1)) for run in runs]
    close = {
        f"step {from_to(met)}" if (met := [end for end in ends if end >= 0]) else "": len(met),
        "not within the run": sum(end < 0 and "eigenvalues" in run for end, run in zip(ends, runs, strict=True)),
        "not known": sum(end < 0 and "eigenvalues" not in run for end, run in zip(ends, runs, strict=True)),
    }
    older = sum(not files.of_today(run) for run in runs)
    machines = dict.fromkeys(f"{run.attrs['device']}, {plural(run.attrs['threads'], 'thread')}" for run in runs)

    def share(what: str, count: int) -> str:
        """Name what is true of some runs, with how many unless of all."""
        return what if count == len(runs) else f"{what} ({count} of {len(runs)})"

    return [
        f"`{setting['name']}`",
        f"{network}, width {setting['width']}, {data}, {criterion}{seeds}",
        f"{setting['learning_rate']:g}",
        f"{setting['n']:,}",
        f"{from_to(run.attrs['instability_step'] for run in runs)} + {from_to(run.sizes.get('t', 0) for run in runs)}",
        from_to(lasted, ".1f" if pilots else ".0f") + (f", {share('pilot', pilots)}" if pilots else ""),
        "; ".join(share(what, count) for what, count in close.items() if count),
        duration(sum(float(run.attrs["seconds"]) for run in every)),
        f"{'; '.join(machines)}, {max(run.attrs['date'] for run in runs)}"
        + (f", {share('older code', older)}" if older else ""),
    ]


class MutantsTable(RecordDirective):
    """Which claims noticed that the library was broken, from the record that ``make mutants`` leaves."""

    def context(self) -> dict:
        record = store.mutants(self.found.folder.parent)
        if record is None:
            return {"record": None}
        claims, mutants = record["claims"], record["mutants"]
        notices = collections.Counter(id for mutant in mutants for id in mutant["red"])
        tried = collections.Counter(chapter for mutant in mutants for chapter in mutant["chapters"])
        for mutant in mutants:
            looked = [claim for claim in claims if claim["notebook"] in mutant["chapters"]]
            red = [claim for claim in looked if claim["id"] in mutant["red"]]
            grouped = itertools.groupby(red, key=lambda claim: claim["notebook"])
            mutant["by_chapter"] = [(chapter, [claim["id"] for claim in group]) for chapter, group in grouped]
            mutant["judged"] = sum(map(holds, looked))
        return {
            "record": record,
            "mutants": mutants,
            "killed": sum(bool(mutant["red"]) for mutant in mutants),
            "claims": [(claim, notices[claim["id"]], tried[claim["notebook"]]) for claim in claims],
            "noticing": len(notices),
            "asked": ", ".join(sorted({chapter[:2] for chapter in tried})),
            "holding": sum(map(holds, claims)),
            "older": sum(each.get("library_digest") != source.numerical_digest() for each in mutants),
        }


class ChapterRole(SphinxRole):
    """The role ``chapter``: link to a chapter and how many of its claims hold; plain words where it is absent."""

    def run(self):
        document = f"chapters/{self.text}"
        if document not in self.env.found_docs:
            title = self.text.partition("_")[2].replace("_", " ")
            return [nodes.inline("", f"{title} (not in this build)", classes=["absent"])], []
        target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{document}", "refexplicit": False}
        words = nodes.inline("", self.text)
        link = addnodes.pending_xref("", words, refdoc=self.env.docname, refwarn=True, **target)
        claims = [claim for claim in self.config.eosbook_records.claims if claim["notebook"] == self.text]
        judged = [claim["recorded"] for claim in claims if "recorded" in claim]
        summary = f" ({sum(map(holds, claims))} of {len(claims)} claims hold" if claims else ""
        summary += f", {sum(map(holds, judged))} of {len(judged)} on recorded runs" if judged else ""
        summary += ")" if claims else ""
        return [link, nodes.Text(summary)], []


class SourceRole(SphinxRole):
    """The role ``source``: link from ``package.module.name`` to the line where that is defined."""

    def run(self):
        module, name = self.text, ""
        while module and not source.file_of(module):
            module, _, last = module.rpartition(".")
            name = f"{last}.{name}".rstrip(".")
        try:
            line = ModuleAnalyzer.for_module(module).find_tags()[name][1]
        except (PycodeError, KeyError, ValueError):
            problem = self.inliner.reporter.error(f"there is no {self.text!r} whose source could be shown")
            return [nodes.problematic(self.rawtext, self.rawtext)], [problem]
        up = "../" * self.env.docname.count("/")  # members are listed with their class
        listing = f"{up}_modules/{module.replace('.', '/')}.html#{name.partition('.')[0]}"
        words = [nodes.literal("", self.text.partition(".")[2]), nodes.Text(f" (line {line})")]
        return [nodes.reference("", "", *words, refuri=listing, internal=True, classes=["source"])], []


def setup(app: Sphinx) -> None:
    app.add_role("chapter", ChapterRole())
    app.add_role("source", SourceRole())
    app.add_directive("claims-table", RecordDirective)
    app.add_directive("figure-gallery", RecordDirective)
    app.add_directive("story-figure", StoryFigure)
    app.add_directive("status-report", StatusReport)
    app.add_directive("mutants-table", MutantsTable)
