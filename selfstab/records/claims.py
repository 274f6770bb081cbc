"""The schema of a claim, and the rule that judges it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import SupportsFloat

RELATIONS = ("equals", "at most", "at least")
CLAIM_FIELDS = (
    "id", "notebook", "sentence", "quantity", "predicted", "measured", "spread", "tolerance", "reason",
    "relation", "verdict", "scale", "seed",
)  # fmt: skip
HOLDS, FAILS = "holds", "does not hold"
#: A claim that holds, but no better than a null model that should fail, and so is no evidence for its sentence.
UNTESTED = "is not tested here"
#: Sign of each verdict, for readers who do not see its color.
SIGNS = {HOLDS: "✓", FAILS: "✗", UNTESTED: "–"}


def verdict(relation: str, predicted: float, measured: float, tolerance: float) -> str:
    """Return ``"holds"`` or ``"does not hold"``; a measured NaN does not hold.

    ``"equals"`` holds where |measured − predicted| ≤ tolerance, ``"at most"`` and ``"at least"`` where measured lies
    beyond predicted by no more than the tolerance.

    Raises:
        ValueError: on an unknown relation, or a tolerance that is negative or not finite.
    """
    if relation not in RELATIONS:
        raise ValueError(f"relation must be one of {', '.join(RELATIONS)}, got {relation!r}")
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise ValueError(f"tolerance must be finite and at least 0, got {tolerance!r}")
    gap = measured - predicted
    excess = {"equals": abs(gap), "at most": gap, "at least": -gap}[relation]
    return HOLDS if excess <= tolerance else FAILS


def furthest(values: Iterable[SupportsFloat], center: float = 1.0) -> float:
    """Return the value furthest from a center; NaN where there is none, or one is NaN."""
    each = list(map(float, values))
    return math.nan if not each or any(map(math.isnan, each)) else max(each, key=lambda value: abs(value - center))


def several(values: Iterable[SupportsFloat], worst: Callable = max) -> dict:
    """Return what a claim about several runs is judged by: ``measured``, the worst (NaN if one is), and ``each``."""
    each = list(map(float, values))
    return {"measured": math.nan if any(map(math.isnan, each)) else float(worst(each)), "each": each}


def finite(value: float) -> float | None:
    """Return a number as a record holds it: JSON has no NaN and no infinity, hence None."""
    return float(value) if math.isfinite(value) else None


def judge(
    relation: str,
    predicted: float,
    measured: float,
    spread: float,
    tolerance: float,
    each: Iterable[SupportsFloat] = (),
) -> dict:
    """Return a measurement with its verdict, as a claim's record holds it.

    ``each`` has the values of all runs, of which ``measured`` is one or a mean: their count, median and range are kept
    if there are several (of NaN, none), and ``spread`` is half the range.
    """
    kept = {"predicted": finite(predicted), "measured": finite(measured), "spread": finite(spread)}
    if len(values := sorted(value for value in map(float, each) if not math.isnan(value))) > 1:
        least, median, most = values[0], statistics.median(values), values[-1]
        kept["spread"] = finite((most - least) / 2)
        kept["each"] = {"count": len(values), "least": finite(least), "median": finite(median), "most": finite(most)}
    judged = verdict(relation, float(predicted), float(measured), float(tolerance))
    return kept | {"tolerance": float(tolerance), "verdict": judged}


def beside(judged: dict, nulls: Mapping[str, float], relation: str) -> dict:
    """Return a judged measurement with more null models, judged by its rule.

    A null model that passes leaves the claim untested, and so does one that is NaN, that is, not computed.  A diverged
    one is infinite.
    """
    predicted = math.nan if judged["predicted"] is None else judged["predicted"]
    tried = [*judged.get("nulls", ())]
    for name, value in nulls.items():
        by = judge(relation, predicted, value, 0.0, judged["tolerance"])
        failed = UNTESTED if math.isnan(value) else by["verdict"]
        tried.append({"name": name, "measured": by["measured"], "verdict": failed})
    passed = holds(judged) and any(null["verdict"] != FAILS for null in tried)
    return judged | {"nulls": tried} | ({"verdict": UNTESTED} if passed else {})


def severity(judged: dict, relation: str) -> tuple[bool, bool, float]:
    """Return a key that sorts judged measurements from good to bad: verdict, then deviation over tolerance."""
    if judged["measured"] is None or judged["predicted"] is None:
        return True, True, math.inf
    gap = judged["measured"] - judged["predicted"]
    size = {"equals": abs(gap), "at most": gap, "at least": -gap}[relation]
    return judged["verdict"] == FAILS, judged["verdict"] == UNTESTED, size / (judged["tolerance"] or 1.0)


def holds(claim: dict) -> bool:
    """Return whether a recorded claim holds."""
    return claim["verdict"] == HOLDS
