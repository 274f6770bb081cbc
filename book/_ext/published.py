"""The directives of the page on the published code: how far the two sides are apart, and what each costs."""

from __future__ import annotations

import json

from generated import Generated
from sphinx.application import Sphinx

from selfstab.records import words
from selfstab.records.paths import ROOT
from selfstab.runs import files, quantities

#: What ``make bench`` wrote last.
RESULTS = ROOT / "benchmarks" / "results.json"
#: The quantities compared, in the words of the notation.
QUANTITIES = {
    "loss": r"Loss $L(\theta^\dagger)$",
    "sharpness": r"Sharpness $S(\theta^\dagger)$",
    "alpha": r"Progressive sharpening $\alpha$",
    "beta": r"Self-stabilization $\beta$",
    "delta": r"Size of the oscillation $\delta$",
}


class PublishedReport(Generated):
    """Tables of differences and costs, read from the last benchmark."""

    def context(self) -> dict:
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        if "differences_settled" not in found["agreement"]:
            return {"found": None}
        common, tracked, constrained = found["agreement"], found["tracked_step"], found["constrained_step_s"]
        sides = [common[f"differences{which}"] for which in ("", "_settled", "_with_quotients")]
        rows = [(words, [side[name] for side in sides]) for name, words in QUANTITIES.items()]
        costs = [
            ("Constrained step", constrained["reference"], constrained["eoslib"]),
            ("Step of all trajectories", tracked["reference_s"], tracked["eoslib_s"]),
            ("The same, gradients in float64", tracked["reference_float64_s"], tracked["eoslib_float64_s"]),
        ]
        return {"found": found, "common": common, "rows": rows, "costs": costs, "unit": tracked["gradient_s"]}


class PublishedRuns(Generated):
    """A table for every run recorded as published: what it met, beside the same experiment as this book runs it."""

    def context(self) -> dict:
        pairs = []
        for run in files.recordings(seed=0):
            named = json.loads(run.attrs["setting"])["name"]
            if "-published" not in named:
                continue
            ours = files.recorded(named.replace("-published", ""), learning_rate=run.attrs["learning_rate"])
            pair = {"As published": run, "In this book": ours}
            pair = {title: each for title, each in pair.items() if each is not None}
            pairs.append((named, run.attrs["learning_rate"], list(pair), list(zip(*map(self.told, pair.values())))))
        return {"pairs": pairs}

    @staticmethod
    def told(run) -> list[tuple[str, str]]:
        """Return what a run met, in words, as long as one direction explains it."""
        run = run.assign(none_error=run.distance)
        alone, until = quantities.single_direction(run), run.attrs["single_direction_until"]
        reached = f"{until:,}" if until >= 0 else "not within the run" if "eigenvalues" in run else "not known"
        rows = [
            ("Step at which $S$ reaches $2/\\eta$", f"{run.attrs['instability_step']:,}"),
            ("Steps followed from there", f"{run.sizes['t']:,}"),
            ("Steps until $\\lambda_2$ reaches $1.9/\\eta$", reached),
            ("Cycles in that time", f"{quantities.lasted(alone):.0f}"),
            (
                "Largest $\\lvert x\\rvert$, in $\\delta$",
                words.number(float((abs(alone.x) / quantities.radius(alone)).max())),
            ),
            (
                "Mean excess loss, in $\\delta^2/\\eta$",
                words.number(float(quantities.excess(alone, [slice(None)], one_direction=True)[0])),
            ),
        ]
        guesses = {"predicted": "Prediction", "generalized": "Generalized prediction", "none": "No displacement"}
        for guess, title in guesses.items():
            steps, cycles = quantities.followed(alone, guess) if f"{guess}_error" in alone else (None, None)
            lasted = "not made" if steps is None else f"{steps:,} steps, {cycles:.1f} cycles"
            rows.append((f"{title} within $\\delta$ of gradient descent", lasted))
        return rows


def setup(app: Sphinx) -> dict:
    """Register the directive."""
    app.add_directive("published-report", PublishedReport)
    app.add_directive("published-runs", PublishedRuns)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
