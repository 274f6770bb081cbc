"""The directive of the page on the published code: how far the two sides are apart, and what each costs."""

from __future__ import annotations

import json

from generated import Generated
from sphinx.application import Sphinx

from selfstab.records.paths import ROOT

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
        if "differences" not in found["agreement"]:
            return {"found": None}
        common, tracked, constrained = found["agreement"], found["tracked_step"], found["constrained_step_s"]
        rows = [
            (words, common["differences"][name], common["differences_with_quotients"][name])
            for name, words in QUANTITIES.items()
        ]
        costs = [
            ("Constrained step", constrained["reference"], constrained["eoslib"]),
            ("Step of all trajectories", tracked["reference_s"], tracked["eoslib_s"]),
            ("The same, gradients in float64", tracked["reference_float64_s"], tracked["eoslib_float64_s"]),
        ]
        return {"found": found, "common": common, "rows": rows, "costs": costs, "unit": tracked["gradient_s"]}


def setup(app: Sphinx) -> dict:
    """Register the directive."""
    app.add_directive("published-report", PublishedReport)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
