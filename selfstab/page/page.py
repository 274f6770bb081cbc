"""A chapter's page: the output and the records of its notebook."""

from __future__ import annotations

import base64
import csv
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import SupportsFloat

import matplotlib.pyplot as plt
import xarray as xr
from IPython.display import Markdown, display

from selfstab import chapters, settings
from selfstab.page.draw import CONTINUED, is_continued
from selfstab.page.points import plotted_points
from selfstab.page.style import style
from selfstab.records.claims import SIGNS, beside, holds, judge, severity
from selfstab.records.paths import other_code, results_root
from selfstab.records.store import FIGURE_FILES, PROVENANCE_FIELDS, write_json
from selfstab.records.words import allowed, null_models, number, recording_note, summarize_verdicts, with_spread
from selfstab.runs import compute, files
from selfstab.runs.provenance import environment, now
from selfstab.source import numerical_digest

NONE: Mapping[str, float] = MappingProxyType({})


class Page:
    """Show and record the results of one notebook; :meth:`close` writes ``results/<scale>/records/<notebook>.json``.

    Args:
        notebook: Stem of the notebook's file.
        scale: ``"test"``, ``"quick"`` or ``"paper"``; another is a ValueError.
        seed: Seed of its runs.
    """

    def __init__(self, notebook: str, *, scale: str, seed: int = 0):
        settings.check_known("scale", scale, settings.SCALES)
        self.notebook, self.scale, self.seed = notebook, scale, int(seed)
        self.folder = results_root() / scale
        if words := other_code():
            print(words, file=sys.stderr)
        self.begun = time.perf_counter()
        self.claims: list[dict] = []
        self.figures: list[dict] = []
        style()

    def runs(self, *names: str) -> list[xr.Dataset]:
        """Load the chapter's runs of some experiments; compute a run whose file is absent or stale, and say so.

        Raises:
            ValueError: on a name that :data:`selfstab.chapters.RUNS` lists for this chapter at no scale.
        """
        listed = tuple(dict.fromkeys(run.name for run in chapters.RUNS.get(self.notebook, ())))
        for name in names:
            settings.check_known(f"run of chapter {self.notebook}", name, listed)
        found = []
        for run in chapters.runs(self.notebook, self.scale):
            if run.name in names:
                setting, seed = run.setting(self.scale), self.seed + run.seed_offset
                if why := files.stale(setting, seed):
                    print(f"Computing {setting.key(seed)} at {self.scale} scale: {why}.")
                found.append(compute.load_or_run(setting, seed))
        return found

    def provenance(self, runs: Sequence[xr.Dataset]) -> dict:
        """Return where a figure's numbers come from: its runs, each value once; without runs, the notebook itself."""
        here = environment() | {"scale": self.scale, "seed": self.seed, "seconds": time.perf_counter() - self.begun}
        here |= {"library_digest": numerical_digest(), "data_hash": "no data", "date": now()}
        origins = [run.attrs for run in runs] or [here]
        found = {name: ", ".join(dict.fromkeys(str(origin[name]) for origin in origins)) for name in here}
        found |= {
            "setting": [run.attrs["key"] for run in runs],
            "seed": sorted({int(origin["seed"]) for origin in origins}),
            "versions": json.loads(origins[0]["versions"]),
            "seconds": round(sum(float(origin["seconds"]) for origin in origins), 1),
        }
        return {name: found[name] for name in PROVENANCE_FIELDS}

    def figure(
        self, fig, id: str, *, caption: str, alt: str, runs: Sequence[xr.Dataset] = (), above: str | None = None
    ) -> None:
        """Save a figure as SVG, PDF, PNG and CSV, record it with its caption and provenance, show it, and close it.

        Args:
            fig: The matplotlib figure.
            id: Short name, unique in the book.
            caption: What is drawn and what it shows (MyST), to be read alone.  If the scale of the runs differs from
                the page's, how they were recorded is added; if steps are shaded, the chapter that continues there.
            alt: Description of the figure for a reader who does not see it.
            runs: Run datasets from which it was drawn.
            above: Text in small letters above the panels, after the scale of the runs; None: nothing.

        Raises:
            ValueError: if the id is taken, or caption or alt text have fewer than five words.
        """
        if any(known["id"] == id for known in self.figures):
            raise ValueError(f"figure id {id!r} is already used in {self.notebook}")
        if len(caption.split()) < 5 or len(alt.split()) < 5:
            raise ValueError(f"figure {id!r} needs a caption and an alt text of at least five words each")
        scale = runs[0].attrs["scale"] if runs else self.scale
        if is_continued(fig):
            caption += f" {CONTINUED}"
        if scale != self.scale:
            caption += f" {recording_note(*runs, pilots=files.pilots(runs))}"
        if above is not None:
            words = ("recorded" if scale != self.scale else f"{scale} scale") + above
            fig.suptitle(words, fontsize=9, x=0.01, ha="left", color="#555555")
        folder = self.folder / "figures" / self.notebook
        folder.mkdir(parents=True, exist_ok=True)
        saved = {kind: folder / f"{id}.{kind}" for kind in FIGURE_FILES}
        fig.savefig(saved["svg"], metadata={"Date": None}, transparent=True)  # for slides of any background
        fig.savefig(saved["pdf"], metadata={"CreationDate": None}, transparent=True)
        fig.savefig(saved["png"], dpi=120)  # the first page stays under a megabyte; the SVG is beside it
        with open(saved["csv"], "w", newline="", encoding="utf-8") as handle:
            table = csv.writer(handle, lineterminator="\n")
            table.writerow(("panel", "curve", "x", "y"))
            table.writerows((panel, curve, f"{x:.7g}", f"{y:.7g}") for panel, curve, x, y in plotted_points(fig))
        plt.close(fig)
        record = {"id": id, "notebook": self.notebook}
        record |= {kind: str(file.relative_to(self.folder)) for kind, file in saved.items()}
        record |= {"caption": " ".join(caption.split()), "alt": " ".join(alt.split())}
        self.figures.append(record | {"provenance": self.provenance(runs)})
        encoded = base64.b64encode(saved["png"].read_bytes()).decode()
        shown = {"image/png": encoded, "text/plain": f"Figure {id}: {record['alt']}"}
        display(shown, raw=True, metadata={"eoslib": {"figure": id}})

    def say(self, text: str) -> None:
        """Show a sentence whose numbers were computed (MyST Markdown)."""
        display(Markdown(text))

    def table(self, head: str, rows: Iterable[Sequence], *, before: str = "", after: str = "") -> None:
        """Show a table of rows, and a paragraph before and after it (MyST Markdown); ``head`` is ``one | two | …``.

        Raises:
            ValueError: if a row has more or fewer cells than the head, or a cell has a ``|`` of its own.
        """
        heads = head.split(" | ")
        lines = [list(map(str, cells)) for cells in (heads, ["---"] * len(heads), *rows)]
        for cells in lines:
            if len(cells) != len(heads) or re.search(r"(?<!\\)\|", "".join(cells)):
                raise ValueError(f"a row needs {len(heads)} cells without a '|' (write \\lvert, or \\|), got {cells}")
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        self.say("\n\n".join(filter(None, (before, body, after))))

    def claim(
        self,
        id: str,
        sentence: str,
        *,
        quantity: str,
        predicted: float,
        measured: float,
        tolerance: float,
        reason: str,
        spread: float = 0.0,
        each: Iterable[SupportsFloat] = (),
        relation: str = "equals",
        paper: str = "",
        work: str = "",
        nulls: Mapping[str, float] = NONE,
        show: bool = True,
    ) -> None:
        """Record a claim with its verdict, and show it.

        Args:
            id: Short name, unique in the book.
            sentence: The claim in words.
            quantity: What was measured, with its unit.
            predicted: Value from the theory.
            measured: Value from the runs.
            tolerance: Largest deviation at which the claim holds.
            reason: Reason for the tolerance.
            spread: Half of an interval around the measured value, where ``each`` is not given.
            each: The values of all runs (seeds, settings, windows of time), whose median and range are shown.
            relation: ``"equals"``, ``"at most"`` or ``"at least"``: how measured should relate to predicted.
            paper: The paper's statement, if it has one in words.
            work: arXiv number of the work whose statement it is, where it is not the paper's.
            nulls: Values of the same quantity from null models, by name.  They use less information, or wrong
                information, and must fail; if one passes, a claim that holds is not tested here.
            show: Whether to print a line with the verdict.

        Raises:
            ValueError: if the id is taken, the relation unknown or the tolerance negative.
        """
        if any(known["id"] == id for known in self.claims):
            raise ValueError(f"claim id {id!r} is already used in {self.notebook}")
        record = {"id": id, "notebook": self.notebook, "sentence": " ".join(sentence.split()), "quantity": quantity}
        record |= beside(judge(relation, predicted, measured, spread, tolerance, each), nulls, relation)
        record |= {"reason": " ".join(reason.split()), "relation": relation, "scale": self.scale, "seed": self.seed}
        self.claims.append(record | {"paper": paper, "work": work})
        if show:
            measure = quantity.replace("*", r"\*")  # as in v*
            bound = "" if relation == "equals" else f"{relation} {allowed(record)[2:]} is allowed: "
            self.say(
                f"**{SIGNS[record['verdict']]} The claim {record['verdict']}.** {record['sentence']} *{measure}*: "
                f"measured {with_spread(record)}; {bound}predicted {number(predicted)}, "
                f"tolerance {number(tolerance)} ({record['reason']})."
            )
            if nulls:
                self.say(f"Null models, which know less and must fail: {null_models(record)}.")

    def null(self, id: str, name: str, measured: float) -> None:
        """Add one more null model to a claim, with its value of the same quantity, which must fail.

        Raises:
            ValueError: on a claim not made before.
        """
        claim = next((known for known in self.claims if known["id"] == id), None)
        if claim is None:
            raise ValueError(f"claim {id!r} must be made by `claim` first")
        claim |= beside(claim, {name: measured}, claim["relation"])

    def over(self, runs: Iterable[xr.Dataset], judge_run: Callable, claim: Callable[..., None]) -> None:
        """Make the claims that ``judge_run(run, claim)`` makes of each run, each with the values of its worst run.

        A run on which a null model passes is worse than one on which none does.
        """
        made: dict[str, list[tuple[str, dict]]] = {}
        for run in runs:
            judge_run(run, lambda id, sentence, **words: made.setdefault(id, []).append((sentence, words)))

        def badness(entry: tuple[str, dict]) -> tuple:
            words, relation = entry[1], entry[1].get("relation", "equals")
            judged = judge(relation, words["predicted"], words["measured"], 0.0, words["tolerance"])
            return severity(beside(judged, words.get("nulls", NONE), relation), relation)

        for id, each in made.items():
            sentence, words = max(each, key=badness)
            measured = [other["measured"] for _, other in each]
            if len(each) > 1:
                words = words | {"quantity": f"{words['quantity']}; the worst of {len(each)} runs"}
            claim(id, sentence, **words | {"each": measured})

    def compare(self) -> None:
        """Show a table of this page's claims: measured values, values that the tolerance allows, and null models."""
        rows = [
            (f"{SIGNS[each['verdict']]} {each['sentence']}", with_spread(each), allowed(each), null_models(each))
            for each in self.claims
        ]
        passed = [f"{null['name']} ({each['id']})" for each in self.claims for null in each["nulls"] if holds(null)]
        after = f"Null models that pass: {'; '.join(passed)}." if passed else "No null model passes."
        after += " The claims page has what was measured, and the reason of each tolerance."
        self.table("claim | measured | allowed | null models", rows, after=after)

    def recorded(self, *runs: xr.Dataset, absent: bool = False) -> Callable[..., None]:
        """Return a :meth:`claim` for recorded runs, whose values are added to the claim of the same id.

        ``absent`` allows claims not made before, and leaves them out, because this scale's runs could not judge them.

        Raises:
            ValueError: from the function returned, on a claim not made before, of another relation, or judged before.
        """

        def record(
            id, sentence, *, predicted, measured, tolerance, spread=0.0, each=(), relation="equals", nulls=NONE, **words
        ):
            claim = next((known for known in self.claims if known["id"] == id), None)
            if absent and claim is None:
                return
            if claim is None or claim["relation"] != relation or "recorded" in claim:
                raise ValueError(f"claim {id!r} must be made once by `claim` first, with the relation {relation!r}")
            judged = judge(relation, predicted, measured, spread, tolerance, each)
            claim["recorded"] = beside(judged, nulls, relation) | {
                "scale": runs[0].attrs["scale"],
                "runs": [run.attrs["key"] for run in runs],
            }

        return record

    def close(self) -> None:
        """Show the verdict on this page's claims, and write the records of this notebook atomically."""
        if self.claims:
            self.say(self._verdict())
        record = {"notebook": self.notebook, "scale": self.scale, "seed": self.seed}
        record |= {
            "seconds": round(time.perf_counter() - self.begun, 1),
            "claims": self.claims,
            "figures": self.figures,
        }
        record |= {"environment": environment()}
        write_json(self.folder / "records" / f"{self.notebook}.json", record)

    def _verdict(self) -> str:
        """Return how many claims hold and the sentence of each that does not, then the same for the recorded runs."""
        where = f"at {self.scale} scale, seed {self.seed}"
        summary = "**Verdict.** " + summarize_verdicts(self.claims, "of this page", where)
        if again := [claim | claim["recorded"] for claim in self.claims if "recorded" in claim]:
            runs = ", ".join(dict.fromkeys(f"`{run}`" for claim in again for run in claim["runs"]))
            summary += " On the recorded runs: " + summarize_verdicts(again, "that they can judge", runs)
        return summary
