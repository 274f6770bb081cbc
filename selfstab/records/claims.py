"""The schema of a claim, and the rule that judges it."""

from __future__ import annotations

import math

RELATIONS = ("equals", "at most", "at least")
CLAIM_FIELDS = (
    "id", "notebook", "sentence", "quantity", "predicted", "measured", "spread", "tolerance", "reason",
    "relation", "verdict", "scale", "seed",
)  # fmt: skip
#: Sign of each verdict: a reader need not see its color.
SIGNS = {"holds": "✓", "does not hold": "✗"}


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
    return "holds" if excess <= tolerance else "does not hold"


def judge(relation: str, predicted: float, measured: float, spread: float, tolerance: float) -> dict:
    """Return a measurement with its verdict, as a claim's record holds it: JSON has no NaN, hence None."""
    numbers = {"predicted": predicted, "measured": measured, "spread": spread}
    kept = {name: float(value) if math.isfinite(value) else None for name, value in numbers.items()}
    judged = verdict(relation, float(predicted), float(measured), float(tolerance))
    return kept | {"tolerance": float(tolerance), "verdict": judged}


def holds(claim: dict) -> bool:
    """Return whether a recorded claim holds."""
    return claim["verdict"] == "holds"
